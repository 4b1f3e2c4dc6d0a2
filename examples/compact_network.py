"""Learn a compact network with your own training loop, save it, and run it with spdnn's engines.

python examples/compact_network.py            # synthetic digits, a minute on one core
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

import spdnn
from spdnn.fssl import FSSL, Schedule, Sparsity, load_model, save_model, to_sparse_network

EPOCHS, BATCH = 8, 128

images, labels = (torch.from_numpy(array) for array in spdnn.digits(12000, seed=0))
images, labels = images.flatten(1).float() / 255, labels.long()
train, test = slice(0, 10000), slice(10000, 12000)

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)

steps = EPOCHS * (10000 // BATCH)
fssl = FSSL(model, images[:1], target=Sparsity(0.95), steps=steps, schedule=Schedule(every=5))
fssl.prepare(optimizer)
for epoch in range(EPOCHS):
    for rows in torch.randperm(10000).split(BATCH):
        if len(rows) < BATCH:
            continue
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
        optimizer.step()
        fssl.step()
    print(f"epoch {epoch + 1}: live inputs and neurons {fssl.live()}")

small = fssl.compact().eval()
right = (small(images[test]).argmax(1) == labels[test]).float().mean()
facts = fssl.report()
print(f"{facts['weights']} of {facts['weights_dense']} weights left, {100 * right:.1f}% right, {facts['architecture']}")

save_model(small, "compact.safetensors")
small = load_model("compact.safetensors")

network = to_sparse_network(small, inputs=784)
features = spdnn.Features.from_dense(images[test].numpy())
result = spdnn.prepare(network, rows=features.rows, compact=False).run(features, values=True)
answers = result.to_dense().argmax(1)
print(f"spdnn's engine gives the same answers: {np.array_equal(answers, small(images[test]).argmax(1).numpy())}")
