"""Networks kept in files and given away: what is read equals what was written; a damaged or foreign file is refused."""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command_line import Run, check_refusal
from torch import Tensor

import fastgan
from fastgan import models, nn
from fastgan.nn import description


def small(**options: object) -> fastgan.GAN:
    torch.manual_seed(3)
    return models.mlp_gan(4, latent_dim=3, hidden=(8, 8), **options)  # type: ignore[arg-type]


def virtual() -> torch.nn.Module:
    return nn.ReferenceBatch(
        torch.nn.Sequential(nn.Linear(3, 4, activation="tanh"), nn.VirtualBatchNorm(4)), torch.randn(5, 3)
    )


NETWORKS: dict[str, Callable[[], torch.nn.Module]] = {
    "mlp": lambda: nn.MLP([3, 8, 4], activation="elu", output_activation="tanh", dropout=0.5),
    "layers": lambda: nn.Sequential(
        nn.Dropout(0.2), nn.Maxout(3, 5, 4), nn.Linear(5, 4, activation="leaky_relu", bias=False), nn.Linear(4, 2)
    ),
    "gelu": lambda: torch.nn.Sequential(
        nn.Linear(3, 4, activation="gelu"), torch.nn.BatchNorm1d(4), torch.nn.Softplus()
    ),
    "dcgan": lambda: models.dcgan(image_size=8, latent_dim=3, width=4).generator,
    "deconv": lambda: torch.nn.Sequential(
        nn.Linear(3, 8), torch.nn.Unflatten(1, (2, 2, 2)), models.Deconv2d(2, 1, 3, untied_size=(4, 4))
    ),
    "virtual": virtual,
    "fused": lambda: fastgan.fuse(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 4))),
}
WITHOUT_EQUIVALENT = ("deconv", "virtual")


def stirred(network: torch.nn.Module) -> torch.nn.Module:
    """With weights and running statistics that no constructor gives."""
    with torch.no_grad():
        for value in network.state_dict().values():
            if value.is_floating_point():
                value.add_(torch.rand_like(value) * 0.1)
    return network


def equals(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() <= 1e-6 * expected.abs().max().clamp(min=1.0))


class Own(torch.nn.Module):
    """A generator of one's own class."""

    def __init__(self, slope: float = 0.1) -> None:
        super().__init__()
        self.first = nn.Linear(3, 6, activation="relu")
        self.slope = slope

    def forward(self, z: Tensor) -> Tensor:
        h: Tensor = self.first(z)
        return torch.cat([h[:, :3] * self.slope, z], 1)[:, :4]


# ---------------------------------------------------------------- GAN.save, GAN.load


LAYERS: dict[str, Callable[[], torch.nn.Module]] = {
    "MLP": lambda: nn.MLP([3, 4], output_activation="tanh"),
    "VAE": lambda: nn.VAE([3, 8, 2], activation="tanh"),
    "AdversarialLoss": lambda: nn.AdversarialLoss("sum"),
    "AutoEncoder": lambda: nn.AutoEncoder([3, 8, 2], output_activation="tanh", impl="reference"),
    "ClassDiscriminator": lambda: nn.ClassDiscriminator(nn.MLP([3, 4]), nn.Linear(4, 2), supervised_weight=0.5),
    "Dropout": lambda: nn.Dropout(0.3),
    "Heads": lambda: nn.Heads([("tanh", 1), ("softmax", 2)]),
    "Linear": lambda: nn.Linear(3, 2, activation="leaky_relu"),
    "Maxout": lambda: nn.Maxout(3, 5, 2),
    "MinibatchDiscrimination": lambda: nn.MinibatchDiscrimination(3, 4, 2),
    "ReferenceBatch": virtual,
    "Residual": lambda: nn.Residual(3, 5),
    "Sequential": lambda: nn.Sequential(nn.Linear(3, 2)),
    "VirtualBatchNorm": lambda: nn.VirtualBatchNorm(4),
}


def test_every_layer_has_a_row() -> None:
    assert set(LAYERS) == {name for name in nn.__all__ if isinstance(getattr(nn, name), type)}


@pytest.mark.parametrize("name", [*NETWORKS, *LAYERS])
def test_a_described_network_is_the_same_one(name: str) -> None:
    network = stirred((NETWORKS | LAYERS)[name]()).eval()
    described = json.loads(json.dumps(description.describe(network)))
    assert "own" not in described, described
    before = torch.random.get_rng_state()
    again = description.load(described, network.state_dict()).eval()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert type(again) is type(network) and str(again) == str(network)
    assert not any(value.is_meta for value in [*again.parameters(), *again.buffers()])
    inputs = (torch.rand(6, 3), *([torch.zeros(6, 2)] if name == "VAE" else []))
    if name != "VirtualBatchNorm":  # which cannot be called alone
        assert torch.equal(again(*inputs), network(*inputs))


def test_a_gan_with_heads_is_saved_and_loaded(tmp_path: Path) -> None:
    generator = torch.nn.Sequential(nn.Residual(3, 5), torch.nn.Linear(8, 3), nn.Heads([("tanh", 1), ("softmax", 2)]))
    gan = fastgan.GAN(generator, nn.MLP([3, 1]), latent_dim=3)
    gan.keep_ema()
    gan.save(tmp_path / "gan")
    assert torch.equal(fastgan.GAN.load(tmp_path / "gan").sample(5), gan.sample(5))


def test_a_saved_gan_is_the_same_one(tmp_path: Path) -> None:
    gan = small(classes=2, prior="uniform", discriminator_dropout=0.3)
    gan.keep_ema()
    stirred(gan.generator)
    gan.discriminator[0].weight.requires_grad_(False)
    assert gan.save(tmp_path / "gan.safetensors") == tmp_path / "gan.safetensors"
    again = fastgan.GAN.load(tmp_path / "gan.safetensors")
    assert str(again) == str(gan) and [str(part) for part in again.children()] == [str(part) for part in gan.children()]
    assert again.data_shape == (4,)
    for (name, value), (known, other) in zip(gan.state_dict().items(), again.state_dict().items(), strict=True):
        assert name == known and torch.equal(value, other)
    frozen = [name for name, parameter in again.named_parameters() if not parameter.requires_grad]
    assert "discriminator.0.weight" in frozen and "discriminator.0.bias" not in frozen
    assert torch.equal(again.sample(5, seed=2), gan.sample(5, seed=2))
    assert b"pickle" not in (tmp_path / "gan.safetensors").read_bytes()


def test_float64_stays(tmp_path: Path) -> None:
    gan = small(dtype=torch.float64)
    gan.save(tmp_path / "gan")
    again = fastgan.GAN.load(tmp_path / "gan")
    assert again.dtype == torch.float64 and torch.equal(again.sample(3), gan.sample(3))


def test_a_path_without_a_gan_is_one_sentence(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.safetensors"):
        rule = f"GAN.load: path must be a file or a run folder with a checkpoint, got {path}"
        with pytest.raises(FileNotFoundError, match=f"^{rule}$"):
            fastgan.GAN.load(path)


def test_networks_of_ones_own_class_are_given_to_load(tmp_path: Path) -> None:
    gan = fastgan.GAN(Own(), small().discriminator, latent_dim=3)
    stirred(gan)
    gan.save(tmp_path / "gan")
    with pytest.raises(
        ValueError, match="generator must be given, as .* holds its weights alone: Own is a class of its own"
    ):
        fastgan.GAN.load(tmp_path / "gan")
    again = fastgan.GAN.load(tmp_path / "gan", generator=Own())
    assert torch.equal(again.sample(3), gan.sample(3))
    with pytest.raises(ValueError, match="must hold the tensors of these networks, got .*first.weight"):
        fastgan.GAN.load(tmp_path / "gan", generator=torch.nn.Linear(3, 4))


class Doubled(torch.nn.Linear):
    """Keeps half its weights in files."""

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = destination[f"{prefix}weight"] / 2

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object) -> None:
        state_dict[f"{prefix}weight"] = 2 * state_dict[f"{prefix}weight"]
        super()._load_from_state_dict(state_dict, prefix, *args)


def test_a_layer_that_reads_its_tensors_itself_is_asked(tmp_path: Path) -> None:
    gan = fastgan.GAN(Doubled(3, 4), small().discriminator, latent_dim=3)
    gan.save(tmp_path / "gan")
    again = fastgan.GAN.load(tmp_path / "gan", generator=Doubled(3, 4))
    assert torch.equal(again.sample(3), gan.sample(3))


def test_hooks_of_a_state_dict_are_called(tmp_path: Path) -> None:
    path, called = small().save(tmp_path / "gan"), []
    generator = small().generator
    generator.register_load_state_dict_pre_hook(lambda *_: called.append("before"))
    generator.register_load_state_dict_post_hook(lambda *_: called.append("after"))
    fastgan.GAN.load(path, generator=generator)
    assert called == ["before", "after"]


def test_what_a_constructor_would_not_make_is_not_described() -> None:
    tied = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    hooked = torch.nn.Sequential(torch.nn.Linear(3, 3))
    hooked[0].register_forward_hook(lambda *_: None)
    replaced = torch.nn.Linear(3, 3)
    replaced.weight = torch.nn.Parameter(torch.zeros(2, 3))
    renamed = torch.nn.ReLU()
    renamed.forward = torch.tanh  # type: ignore[method-assign]
    normed = torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(3, 3))
    for network in (tied, hooked, replaced, renamed, normed):
        assert "own" in description.describe(network), network


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda blob: blob[:-5], "must be a file of GAN.save or a checkpoint"),
        (lambda blob: b"\x00" * 40, "must be a file of GAN.save or a checkpoint"),
        (lambda blob: blob.replace(b"fastgan.nn.MLP", b"os.path.expand"), "must describe the generator"),
        (lambda blob: blob.replace(b'out_features\\": 8', b'out_features\\": 9'), "must describe the generator"),
        (lambda blob: blob.replace(b'latent_dim\\": 3', b'latent_dix\\": 3'), "latent_di"),
    ],
)
def test_a_damaged_file_is_refused_in_one_sentence(tmp_path: Path, damage: Callable[[bytes], bytes], said: str) -> None:
    path = small().save(tmp_path / "gan")
    blob = path.read_bytes()
    damaged = damage(blob)
    assert damaged != blob
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=said) as caught:
        fastgan.GAN.load(path)
    assert "\n" not in str(caught.value)


def test_a_safetensors_file_of_another_program_is_refused(tmp_path: Path) -> None:
    import safetensors.torch

    safetensors.torch.save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="without fastgan's description"):
        fastgan.GAN.load(tmp_path / "other.safetensors")
    with pytest.raises(FileNotFoundError, match="must be a file or a run folder with a checkpoint"):
        fastgan.GAN.load(tmp_path)


def test_a_run_folder_is_loaded_at_its_newest_checkpoint(tmp_path: Path) -> None:
    gan = small()
    config = fastgan.TrainConfig(steps=4, batch_size=8, checkpoint_every=2, ema_decay=0.5)
    fastgan.train(gan, torch.rand(40, 4), config, run_dir=tmp_path / "run")
    again = fastgan.GAN.load(tmp_path / "run")
    assert torch.equal(again.sample(7), gan.sample(7)) and again.ema is not None
    newest = max((tmp_path / "run" / "checkpoint").glob("*.safetensors"))
    assert torch.equal(fastgan.GAN.load(newest).sample(7), gan.sample(7))
    blob = bytearray(newest.read_bytes())
    blob[-1] ^= 1  # a bit of a weight: still a sound safetensors file
    newest.write_bytes(blob)
    with pytest.raises(ValueError, match="do not match the sha256 in its name"):
        fastgan.GAN.load(tmp_path / "run")


# ---------------------------------------------------------------- export

WITHOUT_FASTGAN = """
import sys
sys.modules["fastgan"] = None
import torch
torch.set_num_threads(1)
z, expected = torch.load("batch.pt")
loaded = torch.load("g.pt", weights_only=False)
print(max((module(z) - expected).abs().max().item() for module in (loaded, torch.jit.load("g.ts"))))
assert isinstance(loaded, torch.nn.Module) and not any(m.startswith("fastgan.") for m in sys.modules)
"""


def test_an_exported_generator_runs_without_fastgan(tmp_path: Path) -> None:
    network = stirred(NETWORKS["layers"]()).eval()
    for name, kind in (("g.pt", "torch"), ("g.ts", "torchscript")):
        nn.export(network, torch.randn(8, 3), tmp_path / name, kind)  # type: ignore[arg-type]
    z = torch.randn(11, 3)
    torch.save((z, network(z).detach()), tmp_path / "batch.pt")
    environment = {**os.environ, "PYTHONPATH": ""}
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT_FASTGAN], cwd=tmp_path, env=environment, capture_output=True
    )
    assert ran.returncode == 0, ran.stderr.decode()
    assert float(ran.stdout) <= 1e-6


@pytest.mark.parametrize("name", NETWORKS)
def test_a_copy_of_torch_modules_alone_is_equal(name: str) -> None:
    network = stirred(NETWORKS[name]())
    if name in WITHOUT_EQUIVALENT:
        with pytest.raises(ValueError, match="has no equivalent there"):
            nn.to_torch(network)
        return
    plain = nn.to_torch(network)
    assert all(type(module).__module__.startswith("torch.nn.") for module in plain.modules())
    assert network.training and not plain.training  # the network itself is left as it was
    z = torch.randn(7, 3)
    assert equals(plain(z), network.eval()(z))
    given = {id(parameter) for parameter in network.parameters()}
    assert not any(id(parameter) in given for parameter in plain.parameters())


@pytest.mark.parametrize("container", [nn.Sequential, torch.nn.Sequential])
def test_a_module_held_twice_is_copied_twice(container: type[torch.nn.Sequential]) -> None:
    square, activation = nn.Linear(3, 3, activation="relu"), torch.nn.Tanh()
    network = container(square, activation, nn.Linear(3, 3), activation, square)
    plain = nn.to_torch(network)
    assert isinstance(plain, torch.nn.Sequential) and len(plain) == 5 and plain[0] is plain[4]
    assert equals(plain(z := torch.randn(7, 3)), network(z))


def test_maxout_keeps_nan_and_takes_a_sequence() -> None:
    layer = nn.Maxout(3, 5, 2)
    plain = nn.to_torch(layer)
    assert equals(plain(x := torch.randn(4, 6, 3)), layer(x))
    assert bool(plain(torch.full((2, 3), float("nan"))).isnan().all())


@pytest.mark.parametrize("name", ("layers", "deconv", "virtual"))
@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_torchscript_takes_any_batch(tmp_path: Path, name: str) -> None:
    network = stirred(NETWORKS[name]()).eval()
    nn.export(network, torch.randn(8, 3), tmp_path / "g.ts", "torchscript")
    loaded, z = torch.jit.load(tmp_path / "g.ts"), torch.randn(13, 3)
    assert equals(loaded(z), network(z))


@pytest.mark.slow  # the exporter takes seconds a network
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore")  # of the exporter's own
def test_onnxruntime_gives_what_fastgan_gives(tmp_path: Path, name: str) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    import onnxruntime

    network = stirred(NETWORKS[name]()).eval()
    nn.export(network, torch.randn(8, 3), tmp_path / "g.onnx", "onnx")
    session = onnxruntime.InferenceSession(tmp_path / "g.onnx", providers=["CPUExecutionProvider"])
    for rows in (1, 13):
        z = torch.randn(rows, 3)
        (x,) = session.run(["x"], {"z": z.numpy()})
        assert equals(torch.from_numpy(x), network(z))


def test_onnx_without_its_packages_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="needs the packages onnx and onnxscript: pip install onnx onnxscript"):
        small().export(tmp_path / "g.onnx")  # the name tells the format, or a file of another kind would have it
    assert not (tmp_path / "g.onnx").exists()


def test_bad_exports_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    class Batchwise(torch.nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return z * len(z)  # a tracer takes the length for a constant

    z = torch.randn(8, 3)
    for network, kind, said in (
        (torch.nn.Linear(3, 4), "flax", "format must be one of torch, torchscript, onnx, got 'flax'"),
        (Own(), "torch", "must consist of modules of torch.nn for 'torch', but Own has no equivalent"),
        (Batchwise(), "torchscript", "network must be one that torchscript can express, got other outputs"),
    ):
        with pytest.raises(ValueError, match=said):
            nn.export(network, z, tmp_path / "g", kind)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- run folders of fastgan.train, on the command line


def test_a_run_that_python_began_works_with_the_commands(run: Run, tmp_path: Path) -> None:
    for library in ("matplotlib", "sklearn"):
        pytest.importorskip(library)
    torch.manual_seed(1)
    generator = nn.MLP([5, 8, 64], activation="relu", output_activation="sigmoid")
    gan = fastgan.GAN(generator, models.maxout_discriminator(64, 4), latent_dim=5)
    optimizer = functools.partial(torch.optim.SGD, lr=0.01)
    config = fastgan.TrainConfig(steps=3, batch_size=20, optimizer=optimizer)
    fastgan.train(gan, fastgan.data.digits().head(60), config, run_dir="mine")
    assert run("sample", "mine", "--n", "4", "--out", "x.npy")[0] == 0
    assert run("evaluate", "mine", "--n", "60")[0] == 0
    assert run("plot", "mine")[0] == 0 and Path("mine/samples.png").exists()
    code, said, _ = run("export", "mine", "--out", "g.pt")
    assert code == 0 and "torch.load('g.pt', weights_only=False)(z)" in said and "(n, 5) float32, normal" in said
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        check_refusal(run("export", "mine", "--out", "g.onnx"), "format 'onnx' needs the packages onnx and onnxscript")
    assert not Path("g.onnx").exists()
    z = torch.randn(6, 5)
    assert equals(torch.load("g.pt", weights_only=False)(z), gan.generator.eval()(z))


def test_images_and_functions_of_ones_own_too(run: Run) -> None:
    gan = models.dcgan(image_size=8, channels=1, latent_dim=3, width=2)
    config = fastgan.TrainConfig(
        steps=1, batch_size=5, ema_decay=0.5, optimizer=lambda parameters: torch.optim.SGD(parameters, 0.1)
    )
    fastgan.train(gan, torch.rand(20, 1, 8, 8), config, run_dir="images")
    assert run("sample", "images", "--n", "2", "--out", "x.npy")[0] == 0
    check_refusal(run("evaluate", "images", "--n", "10"), "--data must be given for a run that Python began")
    check_refusal(
        run("train", "--resume", "--out", "images", "--steps", "3"),
        "got a function: go on by fastgan.train(..., resume=True)",
    )


def test_what_the_commands_cannot_read_is_one_sentence(run: Run) -> None:
    fastgan.train(
        fastgan.GAN(Own(), small().discriminator, latent_dim=3),
        torch.rand(20, 4),
        fastgan.TrainConfig(steps=1, batch_size=5),
        run_dir="own",
    )
    Path("empty").mkdir()
    for arguments, expected in (
        (("own", "--out", "g.pt"), "generator must be given, as"),
        (("empty", "--out", "g.pt"), "empty is no run folder: it has no config.json"),
        (("own", "--format", "flax", "--out", "g.pt"), "--format must be one of torch, torchscript, onnx, got 'flax'"),
        (("own", "--format", "onxn", "--out", "g.pt"), "got 'onxn'; did you mean onnx?"),
        (("own", "--out", "no/g.pt"), "--out must lie in an existing folder"),
    ):
        check_refusal(run("export", *arguments), expected)


PAGE = Path(__file__).parents[1] / "docs" / "keep-and-give-away.md"


@pytest.mark.skipif(not PAGE.is_file(), reason="an installed package has no docs folder")
def test_the_page_runs(run: Run) -> None:
    pytest.importorskip("matplotlib")
    names: dict[str, object] = {}
    for language, text in re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.M | re.S):
        if language == "python":
            exec(text, names)
        else:
            for command in text.splitlines():
                assert run(*shlex.split(command.removeprefix("fastgan ")))[0] == 0, command
    assert tuple(names["x"].shape) == (8, 2)  # type: ignore[attr-defined]
