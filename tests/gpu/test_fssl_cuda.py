"""Training whose steps are recorded as CUDA graphs, of a network that shrinks meanwhile."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("PyTorch sees no GPU", allow_module_level=True)

from fssl.stripes import stripes  # noqa: E402

from spdnn.fssl import FSSL, Schedule, Sparsity  # noqa: E402
from spdnn.fssl.training import Recipe, Trainer, dense_network  # noqa: E402


def test_recorded_steps_do_what_steps_do() -> None:
    data = stripes().to("cuda")

    def trained(graphs: bool) -> tuple[list[int], dict]:
        model = dense_network([36, 20, 10, 3], seed=1, norm=True).cuda()
        recipe = Recipe(epochs=20, batch=16, rate=1e-2)
        options = {"steps": recipe.steps(160), "schedule": Schedule(every=5, prox_every=2)}
        example = torch.zeros(2, 6, 6, device="cuda")
        fssl = FSSL(model, example, target=Sparsity(0.8, structured=True), **options)
        trainer = Trainer(model, data, recipe, pruning=fssl, graphs=graphs)
        sizes = []
        for _ in range(30):
            trainer.step()
            sizes.append(sum(p.numel() for p in model.parameters()))
        state = {name: value.clone() for name, value in model.state_dict().items()}
        while trainer.done < trainer.steps:
            trainer.step()
        assert trainer.accuracy("test")[0] >= 95
        return sizes, state

    (sizes, state), (plain_sizes, plain_state) = trained(True), trained(False)
    assert sizes == plain_sizes
    assert sizes[-1] < sizes[0]  # it was recorded anew
    for name, value in plain_state.items():
        torch.testing.assert_close(state[name], value, rtol=1e-3, atol=1e-4)
