"""The algorithm needs torch alone, and OpenRLHF is touched in one folder."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "lens_openrlhf"
HEAVY = {"openrlhf", "ray", "deepspeed", "vllm", "transformers", "trl", "verl", "slime", "megatron"}
# What a folder or file outside training/ may use of them; all but the modules of TRL and verl inside functions.
ALLOWED = {
    "cpu_runtime": {"vllm"},  # asked which device it was built for
    "demo": {"transformers"},
    "evaluation": {"vllm", "transformers"},
    "inputs.py": {"transformers"},
    "trl.py": {"trl", "transformers"},
    "verl.py": {"verl"},
    "slime.py": {"megatron"},
}

# From the bottom up. A folder of training/ is a room, too.
FLOORS = (
    ("process",),
    ("inputs",),
    ("commands",),
    ("advantages",),
    ("rewards", "cpu_runtime", "run_folder"),
    ("data", "demo"),
    ("prompts",),
    ("evaluation", "outside"),
    ("training.checkpoints",),
    ("training.commandline",),
    ("training.hooks",),
    ("training.launch",),
    ("training.command",),
    ("experiments", "reporting", "grade", "doctor"),
    ("cli",),
)


def _room(parts: tuple[str, ...]) -> str | None:
    """Of a module's path inside the package; None for the package itself."""
    if parts[:1] in ((), ("__init__",), ("__version__",), ("_C",)) or parts == ("training", "__init__"):
        return None
    return ".".join(parts[:2]) if parts[0] == "training" else parts[0]


def test_the_operator_imports_torch_alone():
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['openrlhf', 'ray', 'deepspeed', 'vllm', 'transformers']));"
        "import torch; from lens_openrlhf.advantages import lens_advantages;"
        "lens_advantages(-torch.rand(4), torch.tensor([0, 2, 4]), torch.zeros(2), torch.tensor([0, 2]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def with_torch_alone() -> set[str]:
    """Top-level names of all that is installed here, but torch, what it requires, and this project."""
    wanted, kept = ["torch"], {"lens-openrlhf"}
    while wanted:
        name = re.split(r"[^\w.-]", wanted.pop(), maxsplit=1)[0].lower().replace("_", "-")
        if name not in kept:
            kept.add(name)
            with suppress(PackageNotFoundError):
                wanted += [need for need in requires(name) or () if "extra ==" not in need]
    owners = packages_distributions().items()
    return {top for top, names in owners if not {name.lower().replace("_", "-") for name in names} & kept}


def test_the_way_to_the_advantages_imports_torch_alone():
    """So that it can be tried on a GPU machine that has nothing else, and serves every trainer."""
    blocked = with_torch_alone()
    assert HEAVY & blocked and "torch" not in blocked and "numpy" in blocked
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({sorted(blocked - sys.stdlib_module_names)}));"
        "from lens_openrlhf.advantages.across_ranks import gather;"
        "from lens_openrlhf.advantages.estimators import find;"
        "from lens_openrlhf.advantages.responses import batch_of, estimate;"
        "from lens_openrlhf.training.hooks.advantages import compute, set_advantages;"
        "from lens_openrlhf.training.hooks.columns import needs_of, pack;"
        "print(*gather(*pack([], needs_of(find('lens')()), 'cpu'), None, None).columns)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "position prompts lengths mean_logprob correctness rewards\n", done.stderr


def test_the_command_advantages_needs_none_of_the_frameworks(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": 1, "reward": 0, "logprobs": [-1.0]}\n' * 2)
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({sorted(HEAVY | {'datasets'})}));"
        f"from lens_openrlhf.cli import main; sys.exit(main(['advantages', '{tmp_path}/a.jsonl']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _imports(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, in functions too; `from x import y` counts as x.y."""
    package = [PACKAGE.name, *path.relative_to(PACKAGE).parent.parts]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def test_imports_have_one_direction():
    """A room imports those on lower floors, and itself."""
    floors = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        room = _room(path.relative_to(PACKAGE).with_suffix("").parts)
        if room is None:
            continue
        for module in sorted(_imports(path)):
            first, *parts = module.split(".")
            other = _room(tuple(parts)) if first == PACKAGE.name else None
            if other not in (None, room) and floors[other] >= floors[room]:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {module}, but {room} stands on or below {other}")
    assert not wrong, "\n".join(wrong)


def test_openrlhf_is_touched_under_training_only():
    for path in PACKAGE.rglob("*.py"):
        if "training" in path.parts:
            continue
        modules = {module.split(".")[0] for module in _imports(path)}
        allowed = next((names for part, names in ALLOWED.items() if part in path.parts), set())
        assert not modules & HEAVY - allowed, path


def test_the_algorithm_imports_torch_alone():
    for path in (PACKAGE / "advantages").rglob("*.py"):
        packages = {module.split(".")[0] for module in _imports(path)} - {PACKAGE.name} - sys.stdlib_module_names
        assert packages <= {"torch"}, path
