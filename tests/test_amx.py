"""bf16 products on AMX tiles: the stand-in of the instructions, and the engine on it, on AMX and on AVX512-BF16."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import fresh
import numpy as np
import pytest
import torch
from fused_rows import MOMENTUM, ROWS_OF_TABLE, SLOW, STEPS, config_of, distance, run, same_bits, same_runs
from rounded import RoundedLinear

from fastgan import GAN, TrainConfig, _backend, train
from fastgan.training import Callback

native = _backend.native
SOFTWARE, AMX, DOT = "AMX in software", "AMX", "AVX512-BF16"


def has(products: str) -> bool:
    if native is None:
        return False
    try:
        native.force_products(products)
    except ValueError:
        return False
    native.force_products("")
    return True


pytestmark = pytest.mark.skipif(not has(SOFTWARE), reason="the build for this processor has no AVX-512")
needs_amx = pytest.mark.skipif(not has(AMX), reason=f"no AMX: {native and native.bf16_products()['amx']}")
needs_dot = pytest.mark.skipif(not has(DOT), reason="the processor has no AVX512-BF16")


@contextlib.contextmanager
def products(name: str, team: int = 0) -> Iterator[None]:
    native.force_products(name)
    native.force_team(team)
    try:
        yield
    finally:
        native.force_products("")
        native.force_team(0)


# ---------------------------------------------------------------- single instructions


def some_floats(count: int, seed: int) -> np.ndarray:
    """Of many sizes, with subnormal numbers and zeros of both signs."""
    generator = np.random.default_rng(seed)
    values = generator.standard_normal(count) * 2.0 ** generator.integers(-75, 30, count)
    special = [0.0, -0.0, 1e-40, -1e-39, 1.17549435e-38, 3e-23, -2e-20, 1e-41, 1.0, 1.0 + 2**-8, 1.0 + 3 * 2**-9]
    values[:: max(1, count // 40)][: len(special)] = special[: len(values[:: max(1, count // 40)])]
    return values.astype(np.float32)


def rounded(values: np.ndarray, software: bool = True) -> np.ndarray:
    out = np.empty(values.shape, np.uint16)
    for start in range(0, values.size, 32):
        at = values.ravel()[start:].ctypes.data, out.ravel()[start:].ctypes.data
        native.tile_round(software, *at)
    return out


def test_rounding_is_to_nearest_even_without_subnormal_numbers() -> None:
    values = some_floats(4096, 1)
    values[:5] = np.inf, -np.inf, np.nan, -np.nan, 3.4e38
    usual = torch.from_numpy(values).bfloat16().view(torch.int16).numpy().view(np.uint16)
    tiny = (values.view(np.uint32) & 0x7F800000) == 0
    got = rounded(values)
    same = ~tiny & ~np.isnan(values)
    assert (got[same] == usual[same]).all() and tiny.sum() > 3
    assert (got[tiny] == (np.signbit(values[tiny]).astype(np.uint16) << 15)).all()
    assert [hex(x) for x in got[:4]] == ["0x7f80", "0xff80", "0x7fc0", "0xffc0"] and got[4] == 0x7F80


@needs_dot
def test_rounding_equals_the_processors() -> None:
    bits = np.random.default_rng(3).integers(0, 2**32, 1 << 16, dtype=np.uint32)
    bits[: 1 << 12] &= 0x807FFFFF  # subnormal
    bits[1 << 12 : 1 << 13] |= 0x7F800000  # NaN
    assert (rounded(bits.view(np.float32)) == rounded(bits.view(np.float32), software=False)).all()


def as_float(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_float32(exact: Fraction) -> Fraction:
    """Rounded to nearest even; subnormal results become zero."""
    if exact == 0:
        return exact
    size, exponent = abs(exact), 0
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent -= size < Fraction(2) ** exponent
    unit = Fraction(2) ** (exponent - 23)
    result = round(size / unit) * unit
    return (result if exact > 0 else -result) if result >= Fraction(2) ** -126 else Fraction(0)


def flushed(value: np.float32) -> Fraction:
    return Fraction(float(value)) if abs(value) >= 2.0**-126 else Fraction(0)


def dot_in_fractions(c: np.ndarray, a: np.ndarray, b: np.ndarray, rows: int) -> np.ndarray:
    """TDPBF16PS by its description: a (16, 32), b in pairs (16, 32), in exact arithmetic between the roundings."""
    out = np.zeros((rows, 16), np.float32)
    for m in range(rows):
        for n in range(16):
            even = odd = Fraction(0)
            for k in range(16):
                even = to_float32(even + flushed(a[m, 2 * k]) * flushed(b[k, 2 * n]))
                odd = to_float32(odd + flushed(a[m, 2 * k + 1]) * flushed(b[k, 2 * n + 1]))
            out[m, n] = float(to_float32(flushed(c[m, n]) + to_float32(even + odd)))
    return out


def dot(software: bool, c: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    out = c.copy()
    native.tile_dot(software, out.ctypes.data, a.ctypes.data, b.ctypes.data)
    return out


def factors(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    a, b = (rounded(some_floats(512, seed + i)).reshape(16, 32) for i in range(2))
    a[3, :4], b[2, :3] = (0x0001, 0x8003, 0x0080, 0x1F80), (0x1F80, 0x0080, 0x0040)  # subnormal factors and products
    return some_floats(256, seed + 2).reshape(16, 16), a, b


@pytest.mark.parametrize("seed", range(3))
def test_the_stand_in_computes_what_the_instructions_description_says(seed: int) -> None:
    c, a, b = factors(seed)
    expected = dot_in_fractions(c, as_float(a), as_float(b), 5)
    assert (dot(True, c, a, b)[:5] == expected).all()
    plain = c + as_float(a)[:, 0::2] @ as_float(b)[:, 0::2] + as_float(a)[:, 1::2] @ as_float(b)[:, 1::2]
    assert (plain[:5] != expected).any(), "the order of the sums shows"


def test_infinities_and_nan_come_out() -> None:
    c, a, b = factors(7)
    a[0, 0], a[1, 0], b[0, :2] = 0x7F80, 0x7FC0, 0x3F80
    found = dot(True, c, a, b)
    assert np.isinf(found[0, 0]) and np.isnan(found[1, 0]) and np.isfinite(found[2]).all()


@needs_amx
def test_the_instruction_equals_its_stand_in() -> None:
    for seed in range(200):
        c, a, b = factors(seed)
        assert dot(False, c, a, b).tobytes() == dot(True, c, a, b).tobytes(), seed


# ---------------------------------------------------------------- the engine

# The last two are AMX's: depths of several spans (csrc/cpu/amx.cpp), and rows that fill no strip.
SHAPES = [(24, 2, 20), (130, 70, 100), (17, 5, 1), (64, 33, 133), (40, 48, 17), (250, 470, 50)]


def of_linears(linear: Callable[[int, int], torch.nn.Linear], width: int, features: int) -> GAN:
    t = torch.nn
    generator = t.Sequential(
        linear(3, width), t.ReLU(), linear(width, width + 3), t.Tanh(), linear(width + 3, features)
    )
    discriminator = t.Sequential(linear(features, width), t.LeakyReLU(0.2), linear(width, 33), t.ELU(), linear(33, 1))
    return GAN(generator, discriminator, latent_dim=3)


@pytest.mark.parametrize(
    ("kind", "width", "features", "batch"),
    [(SOFTWARE, *shape) for shape in SHAPES] + [pytest.param(DOT, *shape, marks=needs_dot) for shape in SHAPES[:4]],
)
def test_bf16_rounds_the_factors_of_products_and_nothing_else(kind: str, width: int, features: int, batch: int) -> None:
    data = torch.randn(300, features, generator=torch.Generator().manual_seed(2))
    found = {}
    for name, linear, engine, precision in (
        ("oracle", functools.partial(RoundedLinear, kind="bf16"), "eager", "fp32"),
        ("bf16", torch.nn.Linear, "fused", "bf16"),
        ("fp32", torch.nn.Linear, "fused", "fp32"),
    ):
        torch.manual_seed(1)
        found[name] = of_linears(linear, width, features)
        config = TrainConfig(4, batch, optimizer=MOMENTUM, engine=engine, precision=precision)
        with products(kind):
            train(found[name], data, config)
    # A sum that differs in its last bit may round to the neighbouring bfloat16: 2^-9 of one factor of one product.
    assert distance(found["oracle"], found["bf16"]) < 0.1 * distance(found["oracle"], found["fp32"])


FEATURES = (
    "plain", "maxout", "batch normalisation", "wgan-gp maxout", "wide, wgan-gp", "pack 2, relativistic", "dropout",
    "r1 sigmoid", "max norm, simultaneous", "max norm, frozen parameters", "moving average", "a layer of no width",
    "batch normalisation, skip, average", "one row a batch", "a batch of blocks and a rest", "clip weights",
    "clip by norm, wide", "conditional, wide",
)  # fmt: skip


@needs_amx
def test_deep_products_have_the_stand_ins_bits() -> None:
    data = torch.randn(300, 470, generator=torch.Generator().manual_seed(2))
    for precision in ("bf16", "tf32"):
        found = []
        for kind in (SOFTWARE, AMX):
            torch.manual_seed(1)
            gan = of_linears(torch.nn.Linear, 250, 470)
            with products(kind):
                train(gan, data, TrainConfig(2, 50, optimizer=SLOW, engine="fused", precision=precision))
            found.append(gan)
        assert same_bits(*found), precision


@needs_dot
@pytest.mark.parametrize("name", FEATURES)
def test_every_feature_equals_the_products_of_avx512_bf16(name: str) -> None:
    """Factors are rounded alike; sums are taken in another order, and may round a later factor to its neighbour."""
    row, found = ROWS_OF_TABLE[name], {}
    config = {"steps": 4, "precision": "bf16", "optimizer": SLOW}
    for kind in (SOFTWARE, DOT, "fp32"):
        with products(kind):
            found[kind] = run(row, torch.float32, "fused", **config)[0]
    assert distance(found[SOFTWARE], found[DOT]) < 0.3 * distance(found[SOFTWARE], found["fp32"])


@pytest.mark.parametrize("features", [2, 70])
def test_tf32_is_near_float(features: int) -> None:
    """bf16x3: the distances of one step from float64, of factors of 8, 16 and 24 bits."""
    data = torch.randn(300, features, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = {}
    for precision in ("float64", "bf16", "tf32", "fp32"):
        torch.manual_seed(1)
        gan = of_linears(torch.nn.Linear, 130, features)
        if precision == "float64":
            train(gan.double(), data, TrainConfig(2, 100, optimizer=SLOW, engine="eager"))
        else:
            with products(SOFTWARE):
                train(gan, data.float(), TrainConfig(2, 100, optimizer=SLOW, engine="fused", precision=precision))
        found[precision] = gan
    bf16, tf32, fp32 = (distance(found["float64"], found[name]) for name in ("bf16", "tf32", "fp32"))
    assert fp32 < tf32 < bf16 / 50 and tf32 < 1e-5


@pytest.mark.parametrize(
    ("kind", "name", "precision"),
    [
        (SOFTWARE, "wide", "bf16"),
        (SOFTWARE, "wide", "tf32"),
        (SOFTWARE, "wgan-gp maxout", "bf16"),
        (SOFTWARE, "batch normalisation, skip, average", "bf16"),
        (SOFTWARE, "moving average", "tf32"),
        pytest.param(DOT, "wide", "bf16", marks=needs_dot),
    ],
)
def test_bits_depend_neither_on_threads_nor_on_resuming(kind: str, name: str, precision: str, tmp_path: Path) -> None:
    of = functools.partial(run, ROWS_OF_TABLE[name], torch.float32, "fused", precision=precision)
    found = []
    for team in (1, 2, 3, 8):
        with products(kind, team):
            found.append(of())
    with products(kind):
        of(steps=7, run_dir=tmp_path)
        found.append(of(run_dir=tmp_path, resume=True))
    assert all(same_runs(found[0], other) for other in found[1:])


@needs_amx
@pytest.mark.parametrize("name", FEATURES)
def test_the_engine_on_amx_has_the_stand_ins_bits(name: str) -> None:
    for precision in ("bf16", "tf32"):
        found = []
        for kind in (SOFTWARE, AMX):
            with products(kind):
                found.append(run(ROWS_OF_TABLE[name], torch.float32, "fused", precision=precision))
        assert same_runs(*found), precision


class Look(Callback):
    """A look after each iteration: the engine then reads all weights and rounds them again."""

    every = 1


@pytest.mark.parametrize(
    "name", ["clip weights", "max norm", "max norm, simultaneous", "clip by norm, wide", "rolled back"]
)
def test_the_rounded_copies_follow_every_change_of_weights(name: str) -> None:
    row = ROWS_OF_TABLE[name if name != "rolled back" else "plain"]
    data = row.data(torch.float32)
    changes = {}
    if name == "rolled back":  # some minibatches have an infinite loss
        data[::40] = 1e30
        changes = {"nonfinite": "skip", "loss": "least_squares", "optimizer": SLOW}
    found = []
    for callbacks in ((), (Look(),)):
        torch.manual_seed(1)
        gan = row.make(torch.float32)
        with products(SOFTWARE):
            result = train(gan, data, config_of(row, "fused", precision="bf16", **changes), callbacks=callbacks)
        found.append(gan)
    assert same_bits(*found)
    assert all(bool(torch.isfinite(value).all()) for value in gan.state_dict().values())
    assert (np.isinf(result.history["loss_d"]).sum() in range(1, STEPS)) == (name == "rolled back")


# ---------------------------------------------------------------- the choice


def test_the_result_says_what_multiplied() -> None:
    with products(SOFTWARE):
        reason = run(ROWS_OF_TABLE["plain"], torch.float32, "fused", steps=1, precision="bf16")[1].engine_reason
    assert reason.endswith("; products of G by AMX in software, of D by AMX in software")
    assert "products" not in run(ROWS_OF_TABLE["plain"], torch.float32, "fused", steps=1)[1].engine_reason


@needs_dot
def test_small_networks_keep_the_products_of_fp32() -> None:
    found = [run(ROWS_OF_TABLE["plain"], torch.float32, "fused", steps=3, precision=p) for p in ("bf16", "fp32")]
    assert found[0][1].engine_reason.endswith("; products of G by fp32, of D by fp32, where fp32 is faster")
    assert distance(found[0][0], found[1][0]) == 0.0


def test_what_is_not_there_cannot_be_forced() -> None:
    with pytest.raises(ValueError, match="there is no more"):
        native.force_products("more")
    if not has(AMX):
        with pytest.raises(ValueError, match="this machine has no AMX"):
            native.force_products(AMX)
        assert native.bf16_products()["amx"] not in ("", "yes")


# One filter of system calls: arch_prctl(ARCH_REQ_XCOMP_PERM, ...) fails with EPERM, all others pass.
REFUSED = f"""
import ctypes, json, struct, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
steps = [(0x20, 0, 0, 0), (0x15, 0, 3, 158), (0x20, 0, 0, 16), (0x15, 0, 1, 0x1023)]
steps += [(0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]  # SECCOMP_RET_ERRNO | EPERM; SECCOMP_RET_ALLOW
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
zeros = ctypes.c_ulong(0), ctypes.c_ulong(0)
assert libc.prctl(PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), ctypes.c_ulong(0), *zeros) == 0
if libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), ctypes.byref(program), *zeros) != 0:
    sys.exit("no filter of system calls can be set here")
import torch
from fused_rows import ROWS_OF_TABLE, run
from fastgan import _backend
from fastgan.apps.cli import main
_backend.native.announce_amx()
main(["info"])
print(json.dumps([_backend.native.bf16_products()["amx"], _backend.native.bf16_products()["avx512_bf16"]]))
gan, result = run(ROWS_OF_TABLE["wide"], torch.float32, "fused", steps=5, precision="bf16")
print(json.dumps([result.engine_reason, [value.double().sum().item() for value in gan.state_dict().values()]]))
try:
    run(ROWS_OF_TABLE["wide"], torch.float32, "fused", steps=5, precision="tf32")
except ValueError as error:
    print(error)
"""


@needs_dot
@pytest.mark.skipif(sys.platform != "linux", reason="permission is Linux's to give")
def test_a_kernel_that_refuses_the_tiles_costs_them_alone() -> None:
    process = fresh.run(REFUSED)
    if "no filter" in process.stderr:
        pytest.skip(process.stderr.strip())
    assert process.returncode == 0, process.stderr
    *info, products_line, trained, refused = process.stdout.splitlines()
    why = "the kernel refuses them (Operation not permitted)"
    assert any(line.split(None, 1) == ["amx", why] for line in info)
    amx, dot = json.loads(products_line)
    assert amx == why
    reason, sums = json.loads(trained)
    instead = DOT if dot == "yes" else "fp32"
    assert f"; products of G by {instead}, of D by {instead}" in reason
    with products(instead):
        expected = run(ROWS_OF_TABLE["wide"], torch.float32, "fused", steps=5, precision="bf16")[0]
    assert sums == [value.double().sum().item() for value in expected.state_dict().values()]
    assert "'tf32'" in refused and refused.endswith(why)
