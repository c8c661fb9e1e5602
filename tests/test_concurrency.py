"""Many Python threads at once, and forked children: the same bits as alone, and nothing hangs."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import fresh
import pytest
import torch
from cases import IMPLS, need
from torch import Tensor

import fastgan
from fastgan import Momentum, TrainConfig, ops, random
from fastgan.ops import LayerSpec

LAYERS = [LayerSpec("leaky_relu", dropout=0.3), LayerSpec(pieces=2), LayerSpec()]


def work(seed: int, impl: str, rows: int) -> list[Tensor]:
    """A step's worth of every operation, on tensors of its own."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 40, generator=generator)
    weights = [
        (torch.randn(shape, generator=generator) / 6).requires_grad_() for shape in ((48, 40), (64, 48), (1, 32))
    ]
    key = torch.tensor(seed)
    scores = ops.mlp(x, weights, [None] * 3, LAYERS, dropout_seed=key, impl=impl)
    loss = fastgan.discriminator_loss(scores, scores * 0.5, impl=impl)
    loss.backward()
    noise = random.normal(5001, seed=seed, purpose=1, impl=impl)
    dropped = ops.dropout(x, 0.5, key, impl=impl)
    return [scores.detach(), loss.detach(), noise, dropped, *(w.grad for w in weights)]  # type: ignore[list-item]


@pytest.mark.parametrize("impl", IMPLS)
def test_eight_threads_get_what_one_gets(impl: str) -> None:
    """8 threads, 200 calls each, large and small enough for the pool of workers and for none."""
    need(impl, "mlp")
    torch.set_num_threads(2)
    calls = 200 if impl == "native" else 25
    tasks = [(seed, 600 if seed % 5 == 0 else 17) for seed in range(40)]
    alone = [work(seed, impl, rows) for seed, rows in tasks]
    start = Barrier(8)

    def many(thread: int) -> None:
        start.wait()
        for call in range(calls):
            i = (7 * thread + call) % len(tasks)
            got = work(tasks[i][0], impl, tasks[i][1])
            assert all(torch.equal(a, b) for a, b in zip(got, alone[i], strict=True)), f"task {i}"

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(many, thread) for thread in range(8)]:
            done.result(timeout=240)


def test_one_module_runs_many_threads() -> None:
    """Shared weights, gradients per call: the caches of descriptions and of checks are shared, too."""
    torch.manual_seed(0)
    model = fastgan.nn.MLP([20, 64, 64, 3], activation="relu", dropout=0.2).eval()
    inputs = [torch.randn(n, 20) for n in (1, 5, 64, 300)]
    with torch.no_grad():
        alone = [model(x) for x in inputs]

        def many(thread: int) -> bool:
            with torch.no_grad():
                return all(torch.equal(model(inputs[i % 4]), alone[i % 4]) for i in range(thread, thread + 100))

        # torch itself gives other bits to another number of threads, and new threads start with the default
        with ThreadPoolExecutor(8, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            assert all(pool.map(many, range(8)))


PLANS: list[dict[str, object]] = [
    {},
    {"k": 2, "ema_decay": 0.9},
    {"loss": "relativistic", "optimizer": Momentum(0.05, momentum=0.5)},
    {"gradient_penalty": "wgan-gp", "loss": "wasserstein"},
    {"mode": "simultaneous", "max_col_norm": 0.8},
    {"gradient_penalty": "r1", "nonfinite": "skip"},
    {"loss": "least_squares", "generator_steps": 2},
    {"batch_size": 133},
]


def trained(seed: int, steps: int) -> list[Tensor]:
    """What a fused run leaves: every parameter, and the history."""
    generator = torch.Generator().manual_seed(seed)
    gan = fastgan.models.mlp_gan(2, latent_dim=3, hidden=(24, 19), discriminator_dropout=0.2)
    with torch.no_grad():
        for p in gan.parameters():  # torch's global generator belongs to every thread
            p.copy_(torch.randn(p.shape, generator=generator) / 4)
    data = torch.randn(300, 2, generator=generator)
    usual = {"steps": steps, "batch_size": 20, "seed": seed, "engine": "fused"}
    result = fastgan.train(gan, data, TrainConfig(**(usual | PLANS[seed % 8])))  # type: ignore[arg-type]
    return [*gan.state_dict().values(), *(torch.from_numpy(v) for v in result.history.values())]


def test_R15_two_runs_of_one_seed_are_equal() -> None:
    need("native", "mlp")
    torch.set_num_threads(2)
    first, again, other = trained(1, 1000), trained(1, 1000), trained(9, 1000)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_R27_eight_threads_train_eight_gans() -> None:
    """The first to come gets the pool; the others find it taken, and each trains alone."""
    need("native", "mlp")
    alone = [trained(seed, 200) for seed in range(8)]
    start = Barrier(8)

    def one(seed: int) -> list[Tensor]:
        torch.set_num_threads(1 + seed % 3)
        start.wait()
        return trained(seed, 200)

    with ThreadPoolExecutor(8) as pool:
        for running, expected in zip([pool.submit(one, seed) for seed in range(8)], alone, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(running.result(timeout=120), expected, strict=True))


SETUP = """
import os, sys, torch
import fastgan
from fastgan import ops, random
from fastgan.ops import LayerSpec

# Made before the fork: torch's own operations of this size hang in a child.
x = torch.linspace(-4, 4, 400_000)
batch, weight, ones = torch.ones(600, 64), torch.ones(96, 64) / 64, torch.ones(400, 1000)


def work():
    return (
        fastgan.discriminator_loss(x, x).item(),
        random.normal(50_000, seed=1, purpose=0)[-1].item(),
        ops.mlp(batch, [weight], [None], [LayerSpec("tanh")])[0, 0].item(),
        ops.dropout(ones, 0.5, torch.tensor(3))[-1, -10:].tolist(),
    )
"""

FORK = (
    SETUP
    + """
torch.set_num_threads(2)
expected = work()  # the pool of threads exists now, and no child inherits its threads
for child in range(3):
    pid = os.fork()
    if pid == 0:
        ok = all(work() == expected for _ in range(3))
        grandchild = os.fork()
        if grandchild == 0:
            os._exit(0 if work() == expected else 1)
        ok = ok and os.waitpid(grandchild, 0)[1] == 0
        os._exit(0 if ok else 1)
    assert os.waitpid(pid, 0)[1] == 0, "a child failed"
    assert work() == expected
print("done")
"""
)

LOADER = (
    SETUP
    + """
import multiprocessing

class Computed(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, i):
        torch.set_num_threads(2)
        return torch.tensor(work()[:3], dtype=torch.float64)

expected = torch.tensor(work()[:3], dtype=torch.float64)
settings = {"batch_size": 2, "num_workers": 2, "multiprocessing_context": "fork", "timeout": 60}
loader = torch.utils.data.DataLoader(Computed(), **settings)
rows = torch.cat(list(loader))
assert rows.shape == (8, 3) and (rows == expected).all(), rows
print("done")
"""
)

TRAINING_FORK = """
import os, torch
import fastgan

torch.set_num_threads(2)
data = torch.linspace(-2, 2, 600).reshape(300, 2)


def trained():
    torch.manual_seed(0)
    gan = fastgan.models.mlp_gan(2, latent_dim=3, hidden=(32, 32))
    fastgan.train(gan, data, fastgan.TrainConfig(300, 64, engine="fused"))
    return [p.tolist() for p in gan.parameters()]

expected = trained()
pid = os.fork()
if pid == 0:
    os._exit(0 if trained() == expected else 1)
assert os.waitpid(pid, 0)[1] == 0, "the child failed"
assert trained() == expected
print("done")
"""

BUSY_FORK = (
    SETUP
    + """
import threading
torch.set_num_threads(2)
expected = work()
stop = False

def keep_busy():
    while not stop:
        work()

threads = [threading.Thread(target=keep_busy) for _ in range(2)]
for t in threads:
    t.start()
codes = []
for _ in range(5):  # forked while other threads are inside the kernels
    pid = os.fork()
    if pid == 0:
        os._exit(0 if work() == expected else 1)
    codes.append(os.waitpid(pid, 0)[1])
stop = True
for t in threads:
    t.join()
assert codes == [0] * 5, codes
print("done")
"""
)


@pytest.mark.skipif(sys.platform != "linux", reason="fork is for Linux")
@pytest.mark.parametrize(
    "script",
    (FORK, LOADER, TRAINING_FORK, BUSY_FORK),
    ids=("fork", "data loader", "fork after training", "fork of a busy parent"),
)
def test_forked_children_compute(script: str) -> None:
    """torch's own kernels hang here when they have used OpenMP before; these must not."""
    need("native", "mlp")
    try:
        run = fresh.run(script)
    except subprocess.TimeoutExpired:
        pytest.fail("a forked child hangs")
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "done"


EXIT = SETUP + "torch.set_num_threads(4)\nwork()\nprint('done')\n"


def test_the_interpreter_ends_while_workers_wait() -> None:
    need("native", "mlp")
    run = fresh.run(EXIT, strict=True)
    assert run.returncode == 0 and run.stdout.strip() == "done" and not run.stderr, run.stderr


# A backward pass whose threads need 128 MB of scratch each, where 100 MB are left.
OUT_OF_MEMORY = """
import resource
import torch
import fastgan
torch.set_num_threads(2)
torch.manual_seed(0)
net = fastgan.nn.MLP([2, 8, 1], activation="leaky_relu", impl="native")
loss = net(torch.randn(1_000_000, 2)).square().mean()
with open("/proc/self/statm") as statm:
    used = int(statm.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 100 * 2**20, resource.RLIM_INFINITY))
try:
    loss.backward()
except MemoryError:
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    net(torch.randn(5000, 2)).square().mean().backward()
    print(bool(net[0].weight.grad.isfinite().all()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux how much memory is used")
def test_a_worker_out_of_memory_is_an_error_of_the_caller() -> None:
    """And the pool goes on working: nothing waits for the thread that gave up."""
    need("native", "mlp")
    run = fresh.run(OUT_OF_MEMORY)
    assert run.returncode == 0 and run.stdout.strip() == "True", run.stderr
