"""What a new user sees: nothing but the command's own words. And where jax is left to look for accelerators."""

import pytest

from mvgrpo_jax.console import quiet
from tests import hiding

BOTH = {"libtpu", "jax_plugins.xla_cuda13"}


@pytest.mark.nightly
def test_a_first_picture_prints_its_progress_alone(tmp_path):
    flags = ["--pipeline", "flux-nano", "--prompt", "a red circle", "--steps", "1", "--out", str(tmp_path / "out")]
    done = hiding.run(["-m", "mvgrpo_jax.sample", *flags], tmp_path, "torch")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "0000.png").exists()
    said = [part for part in done.stderr.replace("\r", "\n").splitlines() if part.strip()]
    assert said and all(part.startswith("sampling: ") for part in said), done.stderr


@pytest.mark.parametrize("device", ["nvidia0", "nvidiactl", "nvhost-gpu", "dxg", "accel0", "vfio/0", "kfd"])
def test_a_device_file_is_an_accelerator(tmp_path, device):
    for name in ("nvme0", "null", "vfio/vfio"):  # no accelerators
        (tmp_path / "dev" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "dev" / name).touch()
    assert not quiet.has_accelerator(str(tmp_path))
    (tmp_path / "dev" / device).touch()
    assert quiet.has_accelerator(str(tmp_path))


@pytest.mark.parametrize("vendor, expected", [("0x1ae0\n", True), ("0x8086\n", False)])
def test_a_tpu_is_found_by_its_vendor(tmp_path, vendor, expected):
    (tmp_path / "sys/bus/pci/devices/0000:00:05.0").mkdir(parents=True)
    (tmp_path / "sys/bus/pci/devices/0000:00:05.0/vendor").write_text(vendor)
    assert quiet.has_accelerator(str(tmp_path)) is expected


@pytest.mark.parametrize(
    "plugins, environment, here, set_already, expected",
    [
        (BOTH, {}, False, None, "cpu"),  # compilers of the plan extra
        (BOTH, {"TPU_SKIP_MDS_QUERY": "1"}, False, None, "cpu"),  # a process that one with jax started
        (BOTH, {}, True, None, None),
        (set(), {}, False, None, None),
        (BOTH | {"jax_plugins.other"}, {}, False, None, None),  # another maker's accelerator, with files that nobody knows
        (BOTH, {"TPU_NAME": "x"}, False, None, None),
        (BOTH, {}, False, "cuda", "cuda"),
    ],
)
def test_jax_is_told_to_use_the_cpu_only_where_nothing_else_can_be(
    monkeypatch, plugins, environment, here, set_already, expected
):
    new = dict(environment) | ({"JAX_PLATFORMS": set_already} if set_already else {"TF_CPP_MIN_LOG_LEVEL": "0"})
    monkeypatch.setattr(quiet.os, "environ", new)
    monkeypatch.setattr(quiet.sys, "platform", "linux")
    monkeypatch.setattr(quiet, "plugins", lambda: plugins)
    monkeypatch.setattr(quiet, "has_accelerator", lambda: here)
    quiet.quieten()
    assert new.get("JAX_PLATFORMS") == expected
    assert new["TF_CPP_MIN_LOG_LEVEL"] == ("3" if set_already else "0")  # the user's own stays
    assert new["TRANSFORMERS_NO_ADVISORY_WARNINGS"] == "1"


def test_installed_plugins_are_found(tmp_path, monkeypatch):
    (tmp_path / "jax_plugins" / "xla_cuda12").mkdir(parents=True)
    (tmp_path / "jax_plugins" / "__pycache__").mkdir()
    (tmp_path / "other-1.dist-info").mkdir()
    (tmp_path / "other-1.dist-info" / "entry_points.txt").write_text("[jax_plugins]\nx = other_plugin\n")
    (tmp_path / "other-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1\n")
    monkeypatch.setattr(quiet.sys, "path", [str(tmp_path)])
    monkeypatch.delitem(quiet.sys.modules, "jax_plugins", raising=False)
    monkeypatch.delitem(quiet.sys.modules, "libtpu", raising=False)
    assert quiet.plugins() == {"jax_plugins.xla_cuda12", "other_plugin"}
