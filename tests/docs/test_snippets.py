"""Every command and every block of code in the documentation runs.

The blocks of a page run in their order in one directory: a block with a title is written to that
file, and what follows may use it. Python blocks of a page share their names, as in a notebook. A
text block below a command that ends with an error is the error.
"""

import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fenced import PAGES, ROOT, Block, blocks, commands, name

import polopt
from polopt.cli import main
from trained_here import CHILD, here

QUICK = "--evaluation.prompts 8 --run.threads 1"
SMOKE = "--sft.run.steps 8 --rl.run.steps 4"
# Shorter words are learnt in a moment, so that the warm start leaves its plateau.
WARMED = (
    "--sft.run.steps 60 --sft.evaluation.every 60 --evaluation.prompts 8 "
    "--data.parameters '{ length = 2 }'"
)

# Commands behind the curves of docs/methods, and what makes them short.
FEW, EPISODES = "--run.steps 2", "--evaluation.episodes 2"
REPLAY = f"--replay.start_steps 100 --episodes.steps 20 {EPISODES}"
CURVES = {
    "polopt train pg.toml": f"{FEW} {EPISODES}",
    "polopt train reinforce.toml": f"{FEW} {EPISODES}",
    "polopt train q_actor_critic.toml": f"{FEW} {EPISODES}",
    "polopt train a2c.toml": f"{FEW} {EPISODES}",
    "polopt train td_actor_critic.toml": f"{FEW} {EPISODES}",
    "polopt train recipes/cartpole_trpo.toml --until.at_least 501 --evaluation.every 1 "
    "--evaluation.episodes 20": FEW,
    "polopt train recipes/cartpole_ppo.toml --evaluation.every 2 --evaluation.episodes 20": FEW,
    "polopt train recipes/pendulum_sac.toml --until.at_least 0 --run.steps 10": REPLAY,
    "polopt train recipes/pendulum_ddpg.toml --until.at_least 0 --run.steps 10": REPLAY,
}

FEWER = (
    "--sft.run.steps 2 --sft.evaluation.every 1 --rl.run.steps 2 --rl.evaluation.every 1 "
    "--evaluation.prompts 8"
)

# What a page says, and the shorter form that runs here.
SHORTER = {
    # commands
    "polopt compare recipes/compare.toml --algorithms grpo,rloo,reinforce --seeds 3": "polopt "
    f"compare recipes/compare.toml --algorithms grpo,rloo --seeds 1 {FEWER}",
    "polopt compare recipes/compare.toml --algorithms grpo,rloo --seeds 2 --json": "polopt "
    f"compare recipes/compare.toml --algorithms grpo,rloo --seeds 1 --json {FEWER}",
    "polopt compare clipped.toml unclipped.toml --seeds 2": "polopt compare clipped.toml "
    "unclipped.toml --seeds 1",
    "polopt quickstart": "polopt quickstart --model.path builtin:tiny --sft.run.steps 2 "
    "--rl.run.steps 2 --evaluation.every 1 --evaluation.prompts 32",
    "polopt quickstart --run.seed 2 --run.directory runs/second": "polopt quickstart "
    "--run.seed 2 --run.directory runs/second --model.path builtin:tiny --sft.run.steps 2 "
    "--rl.run.steps 2 --evaluation.every 1 --evaluation.prompts 32",
    **{
        f"polopt quickstart {more}": f"polopt quickstart {more} --model.path builtin:tiny "
        "--sft.run.steps 2 --rl.run.steps 2 --evaluation.every 1 --evaluation.prompts 32"
        for more in (
            "--run.directory runs/healthy",
            "--rl.update.learning_rate 2e-3 --run.directory runs/too-far",
        )
    },
    **{
        f"polopt xray {words}": f"polopt xray {words} --prompts 8 --k 2"
        for words in (
            "runs/x/checkpoints/sft runs/x --out xray.html",
            "runs/x@sft runs/x --json",
            "runs/healthy/checkpoints/sft runs/healthy --out healthy.html",
            "runs/too-far/checkpoints/sft runs/too-far --out too-far.html",
        )
    },
    **{  # without the second rank, which takes seconds to start
        f"polopt check {of} --selfcheck": "polopt check recipes/cartpole_ppo.toml --selfcheck"
        for of in ("recipes/smoke.toml", "my_recipe.toml")
    },
    "polopt check recipes/smoke.toml --selfcheck --rl.model.lora 4 --json": "polopt check "
    "recipes/cartpole_ppo.toml --selfcheck --json",
    "polopt train my_recipe.toml": "polopt train my_recipe.toml --model.path builtin:tiny "
    f"--run.steps 2 --rollout.max_new_tokens 8 {QUICK}",
    "polopt resume runs/my_recipe-1 --run.steps 400": "polopt resume runs/my_recipe-1 "
    "--run.steps 3",
    "polopt train recipe.toml --rollout.group_size 4": "polopt train recipe.toml "
    f"--rollout.group_size 4 {QUICK}",
    "polopt train sft.toml": f"polopt train sft.toml --run.steps 2 {QUICK}",
    "polopt train grpo.toml": "polopt train grpo.toml --warm.run.steps 2 --rl.run.steps 2 "
    "--warm.evaluation.every 1 --evaluation.prompts 8",
    "polopt train recipes/rlhf.toml --run.directory runs/rlhf": "polopt train recipes/rlhf.toml "
    "--run.directory runs/rlhf --sft.run.steps 2 --reward.run.steps 2 --ppo.run.steps 2 "
    "--evaluation.prompts 8 --ppo.evaluation.every 0",
    "polopt train recipes/ppo.toml --run.directory runs/ppo": "polopt train recipes/ppo.toml "
    f"--run.directory runs/ppo --rl.run.steps 4 --rl.evaluation.every 2 {WARMED}",
    "polopt train adapters.toml --run.directory runs/adapters": "polopt train adapters.toml "
    "--run.directory runs/adapters --warm.run.steps 2 --rl.run.steps 2 "
    "--warm.evaluation.every 1 --evaluation.prompts 8",
    "polopt train recipes/prime.toml --run.directory runs/prime": "polopt train "
    "recipes/prime.toml --run.directory runs/prime --rl.run.steps 4 --rl.evaluation.every 2 "
    f"{WARMED}",
    "polopt train recipes/trpo.toml --run.directory runs/trpo": "polopt train recipes/trpo.toml "
    "--run.directory runs/trpo --rl.run.steps 4 --rl.evaluation.every 2 "
    f"--rl.rollout.prompts_per_step 16 --rl.critic.warmup_steps 0 {WARMED}",
    "polopt train recipes/reward_model.toml --run.directory runs/reward": "polopt train "
    "recipes/reward_model.toml --run.directory runs/reward --run.steps 4 --evaluation.every 2 "
    "--evaluation.prompts 8",
    "polopt train recipes/dpo.toml --run.directory runs/dpo": "polopt train recipes/dpo.toml "
    "--run.directory runs/dpo --sft.run.steps 2 --dpo.run.steps 4 --evaluation.every 2 "
    "--evaluation.prompts 8",
    "polopt train recipes/async.toml": "polopt train recipes/async.toml --sft.run.steps 4 "
    "--rl.run.steps 6 --evaluation.prompts 8",
    "polopt train recipes/cartpole_ppo.toml": "polopt train recipes/cartpole_ppo.toml "
    "--run.steps 2 --evaluation.every 1 --evaluation.episodes 4",
    "polopt train recipes/pendulum_sac.toml": "polopt train recipes/pendulum_sac.toml "
    "--run.steps 1 --replay.start_steps 100 --episodes.steps 200 --evaluation.episodes 2",
    "polopt train recipes/pendulum_trpo.toml": "polopt train recipes/pendulum_trpo.toml "
    "--run.steps 1 --evaluation.episodes 2",
    "polopt train recipes/walker.toml": "polopt train recipes/walker.toml --run.steps 1 "
    "--episodes.environments 4 --evaluation.episodes 2",
    "polopt train recipes/walker_sac.toml": "polopt train recipes/walker_sac.toml "
    "--run.steps 1 --episodes.environments 4 --episodes.steps 60 --replay.start_steps 100 "
    "--evaluation.episodes 2",
    "polopt train recipes/walker_gait.toml": "polopt train recipes/walker_gait.toml "
    "--run.steps 1 --episodes.environments 4 --evaluation.episodes 2",
    **{command: f"{command} {more}" for command, more in CURVES.items()},
    # Two steps of a model that is always wrong have no entropy: no row is computed.
    "python benchmarks/curve.py runs/quickstart-1 rl grpo.svg accuracy,eval/accuracy "
    "task/worked,degenerate_groups policy/entropy response/length": "python benchmarks/curve.py "
    "runs/quickstart-1 rl grpo.svg accuracy,eval/accuracy degenerate_groups response/length",
    "polopt train recipes/mujoco_ppo.toml": "polopt train recipes/mujoco_ppo.toml "
    "--run.steps 1 --evaluation.episodes 2",
    **{
        f"polopt train recipes/smoke.toml{more}": f"polopt train recipes/smoke.toml{more} {SMOKE}"
        for more in (
            "",
            " --run.directory runs/after",
            " --run.directory runs/one",
            " --run.directory runs/two",
            " --run.directory runs/x",
            " --rl.kl.estimator k2 --run.directory runs/k2",
            " --run.seed 7 --run.directory runs/a",
        )
    },
    "polopt resume runs/a --run.steps 14": "polopt resume runs/a --run.steps 6",
    # parts of Python blocks
    '"run": {"steps": 2, "threads": 1}}': '"run": {"steps": 2, "threads": 1}, '
    '"episodes": {"environments": 4, "steps": 32}, "evaluation": {"episodes": 4}}',
    '"run": {"steps": 60,': '"evaluation": {"prompts": 8}, "run": {"steps": 2,',
    '"run": {"steps": 40,': '"evaluation": {"prompts": 8}, "run": {"steps": 2,',
    '"run.steps": 42': '"run.steps": 3',
}

NOT_RUN = {
    "torchrun --nproc-per-node 2 .venv/bin/polopt train recipes/smoke.toml": "make test-cluster "
    "runs it: two processes on their way to a minute",
    "python benchmarks/learning.py --json": "takes minutes; test_learning.py runs a part of it",
    "python benchmarks/learning.py --search": "likewise",
    "python benchmarks/learning.py --rows grpo": "likewise",
    "python benchmarks/learning.py --write": "would write into the repository",
    "python benchmarks/unseen_seeds.py COMMIT recipes/walker.toml --count 10": "takes an hour",
    "python benchmarks/control.py --quick": "takes minutes; test_control_results.py runs a part",
    "python benchmarks/control.py --full": "takes hours",
    "python benchmarks/control.py --quick --write": "would write into the repository",
    "python benchmarks/memory.py --json": "takes minutes; test_memory.py runs a part of it",
    "python benchmarks/quickstart.py": "takes minutes; test_quickstart_seconds.py runs it shorter",
    "python benchmarks/vs_trl.py --json": "takes an hour; test_speed.py runs parts of it",
    "python benchmarks/roofline.py --json": "takes minutes; likewise",
    "python benchmarks/gpu.py": "needs a GPU; likewise without one",
    "pip install '.[bench]'": "would change the environment that runs the tests",
    "pip install '.[bench,control]'": "would change the environment that runs the tests",
    "pip install .": "would change the environment that runs the tests",
    "pip install '.[control]'": "likewise",
    ".venv/bin/pip install -e '.[bench,dev,tasks]'": "likewise",
    ".venv/bin/pip list --format=freeze --exclude polopt --exclude pip | sed 's/+[^+]*$//' "
    "> constraints.txt": "would pin what happens to be installed",
    ".venv/bin/pre-commit install": "would change the repository",
    "python examples/one_file/grpo.py": "half a minute; tests/examples_one_file run it shorter",
    "python examples/one_file/ppo.py": "half a minute; tests/examples_one_file run it shorter",
    "python examples/one_file/ppo.py cartpole": "likewise",
    "python examples/one_file/dpo.py": "ten seconds; tests/examples_one_file run it shorter",
}

Names = dict[str, object]

# A fragment of a recipe is completed by this one before it is checked.
COMPLETION = {
    "algorithm": "grpo",
    "model": {"path": "builtin:tiny"},
    "data": {"source": "task:chain_sum"},
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory that looks like a clone to what the pages run."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    shutil.copytree(ROOT / "tests" / "shapes", tmp_path / "tests" / "shapes")
    shutil.copytree(ROOT / "examples" / "eval", tmp_path / "examples" / "eval")
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(CHILD, here)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("What is 17 + 25?\n"))  # of polopt chat
    known = set(sys.modules)
    yield tmp_path
    for module in set(sys.modules) - known:  # reward files of one page are not those of another
        if module.startswith(("my_reward", "polopt_reward_file")):
            del sys.modules[module]


def pages_with_blocks() -> list[Path]:
    return [page for page in PAGES if blocks(page)]


@pytest.mark.parametrize("page", pages_with_blocks(), ids=name)
def test_page(page: Path, clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: Names = {"__name__": "__main__"}
    failed = False
    for block in blocks(page):
        assert block.language in RUN, f"{block.where}: say what {block.language!r} is"
        said = capsys.readouterr().err
        if failed and block.language == "text":
            assert said.splitlines()[-1] == block.text.strip(), block.where
        try:
            RUN[block.language](block, names)
        except BaseException as error:
            error.add_note(f"in {block.where}")
            raise
        failed = block.language == "bash" and commands(block)[-1][1] != 0


def test_no_entry_is_left_over() -> None:
    """A table that speaks of commands which no page has hides what is not tested."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [old for old in (*SHORTER, *NOT_RUN) if old not in text] == []


def run_bash(block: Block, _: Names) -> None:
    assert commands(block), f"{block.where}: no command"
    for command, expected in commands(block):
        if command not in NOT_RUN:
            code = run_command(SHORTER.get(command, command))
            assert code == expected, f"{block.where}: {command!r} ended with {code}"


def run_command(command: str) -> int:
    words = shlex.split(command)
    match words[0]:
        case "polopt":  # the function behind the entry point, in this process: torch loads once
            return main(words[1:])
        case "make":  # what the targets do is the work of the other tests
            return process(["make", "-n", *words[1:]], ROOT)
        case "python":
            return process([sys.executable, *words[1:]], Path())
        case "cmp" | "sha256sum":
            return process(words, Path())
        case program:
            raise AssertionError(f"{program}: how is it run? Or say in NOT_RUN why it is not")


def process(words: list[str], directory: Path) -> int:
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL")}
    return subprocess.run(words, cwd=directory, env=environment, check=False).returncode


def run_python(block: Block, names: Names) -> None:
    code = block.text
    for old, new in SHORTER.items():
        code = code.replace(old, new)
    if block.title:
        Path(block.title).write_text(code, encoding="utf-8")
    exec(compile(code, block.where, "exec"), names if not block.title else {})


def run_toml(block: Block, _: Names) -> None:
    table = tomllib.loads(block.text)
    if block.title:
        Path(block.title).write_text(block.text, encoding="utf-8")
        assert polopt.check(block.title)
        return
    fragment = {**COMPLETION, **table}
    fragment["data"] = {**COMPLETION["data"], **table.get("data", {})}
    for source in ("source", "evaluation_source"):  # the user's own files, which a fragment names
        file = Path(fragment["data"].get(source, ":"))
        if ":" not in str(file) and not file.exists():
            file.touch()
    if "/" in (model := table.get("reward", {}).get("model", "")):
        Path(model).mkdir(parents=True)
        (Path(model) / "config.json").touch()
    assert polopt.check(fragment)


def run_json(block: Block, _: Names) -> None:
    lines = block.text.splitlines() if block.language == "jsonl" else [block.text]
    for line in lines:
        json.loads(line)
    if block.title:
        Path(block.title).write_text(block.text, encoding="utf-8")


def shown(block: Block, _: Names) -> None:
    """Output and equations: nothing to run."""
    assert block.text.strip()


RUN: dict[str, Callable[[Block, Names], None]] = {
    "bash": run_bash,
    "python": run_python,
    "toml": run_toml,
    "json": run_json,
    "jsonl": run_json,
    "text": shown,
    "math": shown,
    "diff": shown,  # test_worked_examples.py applies them
}
