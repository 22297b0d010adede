"""Networks that are no policies, saved by layer: what must match when they are read again."""

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rlsuite.core import network_files
from rlsuite.core.layers import Layout, mlp_shapes
from rlsuite.core.network_files import load_network, save_network

LAYOUT = Layout(mlp_shapes("encoder", (3, 8, 2)) | mlp_shapes("decoder", (2, 8, 1)))
ABOUT = {"data": "5e7", "normalize_obs": "True"}
SEEDS = (4, 9, 2)


def theta_of(seeds: int = 3) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.standard_normal((seeds, LAYOUT.size))).float()


@pytest.fixture
def path(tmp_path):
    """A file with three seeds."""
    save_network(tmp_path / "net.safetensors", LAYOUT, theta_of(), SEEDS, ABOUT)
    return tmp_path / "net.safetensors"


def test_rows_come_back_bit_for_bit(path):
    assert torch.equal(load_network(path, LAYOUT, SEEDS, ABOUT), theta_of())
    assert [x.name for x in path.parent.iterdir()] == [path.name]


def test_each_seed_gets_its_own_row_in_whatever_order(path):
    theta = theta_of()
    assert torch.equal(load_network(path, LAYOUT, (2, 4), ABOUT), theta[[2, 0]])
    assert torch.equal(load_network(path, LAYOUT, (9,), ABOUT), theta[1:2])


def test_tensors_carry_the_names_of_their_layers(path):
    tensors = load_file(path)
    assert {name: tuple(x.shape[1:]) for name, x in tensors.items()} == LAYOUT.shapes
    assert torch.equal(tensors["decoder.0.weight"], LAYOUT.views(theta_of())["decoder.0.weight"])
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"seeds": "[4, 9, 2]", **ABOUT}


def test_a_file_of_one_seed_serves_every_seed(tmp_path):
    path, theta = tmp_path / "net.safetensors", theta_of(1)
    save_network(path, LAYOUT, theta, (7,), ABOUT)
    got = load_network(path, LAYOUT, (0, 1, 2), ABOUT)
    assert torch.equal(got, theta.expand(3, -1))
    got[0] += 1  # rows of their own
    assert torch.equal(got[1], theta[0])


def test_absent_seeds_are_refused_by_number(path):
    with pytest.raises(ValueError, match=r"has seeds \[4, 9, 2\], not \[0, 5\]; train those, too"):
        load_network(path, LAYOUT, (5, 4, 0), ABOUT)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"data": "0ff"}, "was fitted with data 5e7, not 0ff"),
        ({"normalize_obs": "False"}, "was fitted with normalize_obs True, not False"),
        ({"width": "8"}, "was fitted with width None, not 8"),
    ],
)
def test_a_file_of_other_data_is_refused(path, asked, message):
    with pytest.raises(ValueError, match=message):
        load_network(path, LAYOUT, SEEDS, ABOUT | asked)


def test_another_size_is_refused_with_both(path):
    wide = Layout(mlp_shapes("encoder", (3, 9, 2)) | mlp_shapes("decoder", (2, 9, 1)))
    with pytest.raises(ValueError, match=r"encoder.0.weight is \[3, 8, 3\], not \[3, 9, 3\]"):
        load_network(path, wide, SEEDS, ABOUT)


def test_another_shape_of_the_same_size_is_refused(path):
    turned = Layout({name: shape[::-1] for name, shape in LAYOUT.shapes.items()})
    with pytest.raises(ValueError, match=r"encoder.0.weight is \[3, 8, 3\], not \[3, 3, 8\]"):
        load_network(path, turned, SEEDS, ABOUT)


@pytest.mark.parametrize("seeds", ["[4, 9]", "[4, 9, 2, 5]", "{}", '["4"]', "[" * 100_000, "4"])
def test_seeds_that_do_not_fit_the_tensors_are_refused(path, seeds):
    save_file(load_file(path), path, {"seeds": seeds, **ABOUT})
    with pytest.raises(ValueError, match=r"net\.safetensors"):
        load_network(path, LAYOUT, (4, 9), ABOUT)


def test_a_layer_that_is_not_there_is_named(path):
    other = Layout(mlp_shapes("critic", (3, 8, 2)))
    with pytest.raises(ValueError, match=r"cannot be read .*critic\.0\.weight.* name a run folder"):
        load_network(path, other, SEEDS, ABOUT)


def cut(path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def overwrite(path) -> None:
    path.write_text("no tensors")


def strip(path) -> None:
    save_file(load_file(path), path)


@pytest.mark.parametrize("damage", [cut, overwrite, strip, lambda path: path.unlink()])
def test_a_damaged_file_is_refused_by_name(path, damage):
    damage(path)
    with pytest.raises(ValueError, match=r"net\.safetensors cannot be read .* name a run folder"):
        load_network(path, LAYOUT, SEEDS, ABOUT)


def test_a_failed_save_leaves_the_file_before_it(path, monkeypatch):
    def full(tensors, where, metadata):
        where.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(network_files, "save_file", full)
        with pytest.raises(OSError, match="No space left"):
            save_network(path, LAYOUT, theta_of() + 1, SEEDS, ABOUT)
    assert torch.equal(load_network(path, LAYOUT, SEEDS, ABOUT), theta_of())
    save_network(path, LAYOUT, theta_of() + 1, (1, 2, 3), ABOUT)  # what is left over is no obstacle
    assert torch.equal(load_network(path, LAYOUT, (1, 2, 3), ABOUT), theta_of() + 1)
    assert [x.name for x in path.parent.iterdir()] == [path.name]
