"""Tables, figures and the figures others have published."""
