import torch

from nacgen.models.encoder import NACEncoder
from nacgen.transplant.transplant import transplant
from tests.transplant.conftest import images


def test_spectral_norm_of_heads_leaves_the_trunk(encoder: NACEncoder) -> None:
    part = transplant(encoder, mode="frozen", image_size=16, spectral_norm="heads", num_classes=3)
    module = part.module.eval()
    layers = [m for m in module.modules() if isinstance(m, torch.nn.Linear | torch.nn.Embedding)]
    assert len(layers) == 10
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight, 2) < 1.1
    capped = [name for name, _ in module.trunk.named_modules() if "parametrizations" in name]
    assert not capped


def test_the_cap_is_the_identity_at_first_and_a_bound_later(encoder: NACEncoder) -> None:
    plain = transplant(encoder, image_size=16).module
    part = transplant(encoder, image_size=16, spectral_norm="cap")
    trunk = part.module.trunk
    for module in (part.module.eval(), part.module.train()):
        for stage, expected in plain.trunk(images()).items():
            torch.testing.assert_close(module.trunk(images())[stage], expected)
    conv = trunk.backbone.get_submodule("layer1.0.conv1")
    first = torch.linalg.matrix_norm(conv.weight.flatten(1), 2)
    names = [name for names in part.stages.values() for name in names]
    assert "trunk.backbone.layer1.0.conv1.parametrizations.weight.original" in names
    optimizer = torch.optim.Adam(part.param_groups(0.1))
    for _ in range(10):
        optimizer.zero_grad()
        (-part.module(images()).square().mean()).backward()
        optimizer.step()
    part.module(images())
    grown = conv.get_parameter("parametrizations.weight.original")
    assert torch.linalg.matrix_norm(grown.flatten(1), 2) > 1.2 * first
    assert torch.linalg.matrix_norm(conv.weight.flatten(1), 2) < 1.1 * first
    with torch.no_grad():  # a weight that shrinks stays as it is
        grown.mul_(0.01 * first / torch.linalg.matrix_norm(grown.flatten(1), 2))
    assert torch.equal(conv.weight, grown)


def test_a_convolution_that_is_zero_has_no_cap_and_trains(encoder: NACEncoder) -> None:
    torch.nn.init.zeros_(encoder.backbone.get_submodule("layer2.0.bn2").weight)  # type: ignore[arg-type]
    module = transplant(encoder, image_size=16, spectral_norm="cap").module
    zero = module.trunk.backbone.get_submodule("layer2.0.conv2")
    module(images()).sum().backward()
    assert isinstance(zero.weight, torch.nn.Parameter)
    assert zero.weight.grad is not None
    assert zero.weight.grad.abs().sum() > 0
    assert module(images()).isfinite().all()
