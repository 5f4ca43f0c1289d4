"""launch/jobset.sh with a kubectl that writes down what it is asked."""

import sys

import pytest
import yaml

from tests.launch import manifests
from tests.launch.stand_ins import StandIns

# States come from a file, one a question, the last one for ever.
KUBECTL = """
case "$*" in
    *" create "* | "create "*) cat > "$CREATED"; exit ${ON_CREATE:-0} ;;
    *"get jobset"*) head -1 "$STATES"; [ "$(wc -l < "$STATES")" -lt 2 ] || sed -i 1d "$STATES"; ! grep -q away "$STATES" ;;
    *"get pods"*) printf "$ENDS" ;;
    *logs*) echo "the last lines of the run" ;;
esac
"""
SLEEP = '[ "$1" = 30 ] || exec /bin/sleep "$1"'
RUN = ("--", "--config=configs/mvgrpo_flux.py", "--workdir=gs://b/runs/flux")


@pytest.fixture
def cluster(tmp_path):
    """cluster(states, *options, **more) -> (status, what kubectl was asked for, what was printed, the manifest it got).
    asked: SIGTERM comes after so many calls."""
    programs, states, created = StandIns(tmp_path, kubectl=KUBECTL, sleep=SLEEP), tmp_path / "states", tmp_path / "created"

    def run(said, *options, asked=0, **more):
        states.write_text("".join(f"{s}\n" for s in said))
        created.write_text("")
        words = (
            "launch/jobset.sh",
            "--chip=v5p",
            "--topology",
            "4x4x4",
            "--image=i:1",
            "--name=flux",
            "--python",
            sys.executable,
        )
        stop = (lambda: len(programs.calls()) >= asked) if asked else None
        more |= {"STATES": str(states), "CREATED": str(created)}
        code, printed = programs.run(*words, *options, *RUN, stop_when=stop, **more)
        calls = [c for c in programs.calls() if c[0] == "kubectl"]
        return code, [action(c) for c in calls], printed, yaml.safe_load(created.read_text())

    return run


def action(call):
    return " ".join(w for w in call if w in ("create", "get", "jobset", "pods", "logs", "delete"))


def test_a_run_from_nothing_to_the_end(cluster):
    code, actions, said, manifest = cluster(["", "at  0", "at  0", "at Completed 0"])
    assert code == 0 and actions == ["get jobset", "create", *["get jobset"] * 3] and "flux is done" in said
    manifests.check(manifest)
    assert manifest["metadata"]["name"] == "flux"


def test_where_it_cannot_be_created_it_ends(cluster):
    code, actions, _, _ = cluster([""], ON_CREATE="1")
    assert code == 1 and actions == ["get jobset", "create"]


@pytest.mark.parametrize("ends, status", [("2\\n2\\n75\\n", 2), ("1\\n", 1), ("137\\n", 1)])
def test_where_training_fails_its_last_lines_and_status_are_told(cluster, ends, status):
    code, actions, said, _ = cluster(["", "at  0", "at Failed 0"], ENDS=ends)
    assert code == status and actions[-2:] == ["logs", "get pods"] and "the last lines of the run" in said
    assert "kubectl delete jobset flux" in said


def test_a_run_that_was_taken_down_is_followed_on(cluster):
    code, _, said, _ = cluster(["", "at  0", "at  1", "at  1", "at  2", "at Completed 2"])
    assert code == 0 and said.count("was taken down and starts again") == 2


def test_a_run_that_is_there_is_followed(cluster):
    code, actions, said, _ = cluster(["at  0", "at Completed 0"])
    assert code == 0 and "create" not in actions and "is there already" in said


@pytest.mark.parametrize("state", ["at Failed 3", "at Completed 0"])
def test_one_that_is_over_is_replaced(cluster, state):
    code, actions, _, _ = cluster([state, "at Completed 0"])
    assert code == 0 and actions == ["get jobset", "delete jobset", "create", "get jobset"]


def test_a_cluster_that_does_not_answer(cluster):
    code, actions, said, _ = cluster(["", "away"])
    assert code == 1 and "does not answer" in said and "delete jobset" not in actions


def test_a_run_that_somebody_deleted(cluster):
    code, _, said, _ = cluster(["", "at  0", ""])
    assert code == 1 and "was deleted" in said


def test_the_following_ends_by_a_signal_and_the_run_does_not(cluster):
    code, actions, said, _ = cluster(["", "at  0"], asked=4)
    assert code == 75 and "the run goes on" in said and "delete jobset" not in actions


def test_dry_run_prints_the_manifest_and_starts_nothing(cluster):
    code, actions, said, _ = cluster([], "--dry_run", "--namespace=mine")
    assert code == 0 and not actions
    manifests.check(yaml.safe_load(said.split("<<END\n")[1].split("\nEND\n")[0]))
    assert "kubectl --namespace=mine create --filename=-" in said


def test_a_mistake_is_found_before_anything_starts(cluster):
    code, actions, said, _ = cluster([], "--topology=4x4")
    assert code == 2 and not actions and "v5p has 3 sizes" in said
