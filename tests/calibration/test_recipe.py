"""Calibration recipes: what is chosen and how it is prepared, and that a recipe from a stranger is harmless."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nm2trt.calibration.recipe import load_recipe, open_recipe
from nm2trt.calibration.sample_set import SampleSet, write_contact_sheet
from nm2trt.errors import DataError, InputError

CALIB = Path(__file__).parents[2] / "calib"


def written(folder, text):
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def arrays(folder, count=20, **more):
    values = np.arange(count * 6, dtype=np.float32).reshape(count, 2, 3)
    np.savez(folder / "data.npz", x=values, labels=np.arange(count), **more)
    return values


def make_samples(count, scale=1.0):
    return np.arange(count, dtype=np.float32)[:, None] * scale


def make_text():
    return "nothing"


def test_chosen_samples_are_the_seeds_in_order_and_from_the_range(tmp_path):
    values = arrays(tmp_path)
    path = written(
        tmp_path, "source: {kind: npz, path: data.npz}\ncount: 5\nseed: 3\nrange: [4, 14]\nbatch: 2\n"
    )
    samples = load_recipe(path)
    assert list(samples.indices) == sorted(set(samples.indices))
    assert all(4 <= index < 14 for index in samples.indices)
    assert np.array_equal(samples.arrays["x"], values[list(samples.indices)])
    assert set(samples.arrays) == {"x"}, "labels are left out"
    assert [len(batch) for batch in samples] == [2, 2, 1]
    assert load_recipe(path).sha256 == samples.sha256
    other = written(tmp_path, path.read_text().replace("seed: 3", "seed: 4"))
    assert load_recipe(other).sha256 != samples.sha256


def test_several_inputs_come_by_name(tmp_path):
    arrays(tmp_path, mask=np.ones((20, 4), dtype=np.int64))
    samples = load_recipe(written(tmp_path, "source: {kind: npz, path: data.npz}\ncount: 4\n"))
    (batch,) = samples
    assert {name: array.shape for name, array in batch.items()} == {"x": (4, 2, 3), "mask": (4, 4)}
    only = load_recipe(written(tmp_path, "source: {kind: npz, path: data.npz, arrays: [mask]}\ncount: 4\n"))
    assert set(only.arrays) == {"mask"}


def test_npy_and_preprocessing_against_plain_numpy(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
    np.save(tmp_path / "x.npy", pixels)
    recipe = "source: {kind: npy, path: x.npy}\ncount: 6\ninput: image\npreprocess: {divide: 255, mean: [0.1, 0.2, 0.3], std: [0.5, 1, 2], layout: nchw}\n"
    (name, got), *rest = load_recipe(written(tmp_path, recipe)).arrays.items()
    wanted = ((pixels / 255 - [0.1, 0.2, 0.3]) / [0.5, 1, 2]).transpose(0, 3, 1, 2)
    assert (name, rest) == ("image", [])
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, atol=1e-6)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_idx(tmp_path, pack):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 4, 5), dtype=np.uint8)
    header = struct.pack(">HBB3I", 0, 8, 3, *pixels.shape)
    (tmp_path / "x.idx").write_bytes(pack(header + pixels.tobytes()))
    path = written(tmp_path, "source: {kind: idx, path: x.idx}\ncount: 7\npreprocess: {layout: nchw}\n")
    assert np.array_equal(load_recipe(path).arrays["input"][:, 0], pixels)
    (tmp_path / "x.idx").write_bytes(pack(header + pixels.tobytes()[:-1]))
    with pytest.raises(DataError, match="should hold 7x4x5 values, and does not"):
        load_recipe(path)


def pictures(folder, sizes=((40, 20), (20, 40), (30, 30))):
    for index, size in enumerate(sizes):
        (folder / "sub").mkdir(exist_ok=True)
        Image.new("RGB", size, (index, 10, 20)).save(folder / "sub" / f"{index}.png")


def test_image_folder_is_resized_and_cropped(tmp_path):
    pictures(tmp_path)
    (tmp_path / "notes.txt").write_text("no image")
    text = "source: {kind: images, path: .}\ncount: 3\npreprocess: {resize: 16, crop: 12, layout: nchw}\n"
    samples = load_recipe(written(tmp_path, text))
    assert samples.arrays["input"].shape == (3, 3, 12, 12)
    assert samples.arrays["input"][:, 0, 0, 0].tolist() == [0, 1, 2]
    grey = load_recipe(written(tmp_path, text.replace("path: .", "path: ., colour: false")))
    assert grey.arrays["input"].shape == (3, 1, 12, 12)
    with pytest.raises(DataError, match="the images have 3 different sizes; give resize and crop"):
        load_recipe(written(tmp_path, "source: {kind: images, path: .}\ncount: 3\n"))
    with pytest.raises(DataError, match="too small for crop: 30; give resize"):
        load_recipe(written(tmp_path, "source: {kind: images, path: .}\ncount: 3\npreprocess: {crop: 30}\n"))


def test_an_image_is_only_what_its_name_may_hold(tmp_path):
    # Pillow would start Ghostscript for this one.
    (tmp_path / "a.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    )
    with pytest.raises(DataError, match="cannot be read as an image of PNG, JPEG, BMP, WEBP"):
        load_recipe(written(tmp_path, "source: {kind: images, path: .}\ncount: 1\n"))


def test_images_that_would_be_resized_beyond_the_bound(tmp_path):
    pictures(tmp_path)
    text = "source: {kind: images, path: .}\ncount: 1\npreprocess: {resize: 1000000}\n"
    with pytest.raises(DataError, match=r"pixels after resize unpack to .*--sample-memory"):
        load_recipe(written(tmp_path, text))


def test_function_runs_only_when_allowed(tmp_path):
    text = (
        "source: {kind: function, function: '%s:make_samples', arguments: {count: 6, scale: 0.5}}\ncount: 3\n"
    )
    path = written(tmp_path, text % __name__)
    with pytest.raises(
        InputError, match=r"it would run Python code, .*make_samples; allow it with --allow-functions"
    ):
        load_recipe(path)
    samples = load_recipe(path, allow_functions=True)
    assert samples.arrays["input"][:, 0].tolist() == [index * 0.5 for index in samples.indices]
    with pytest.raises(DataError, match="returned a str; it should return an array"):
        load_recipe(
            written(
                tmp_path,
                (text % __name__)
                .replace("make_samples", "make_text")
                .replace("arguments: {count: 6, scale: 0.5}", "arguments: {}"),
            ),
            allow_functions=True,
        )
    with pytest.raises(InputError, match="names no function that can be imported"):
        load_recipe(
            written(tmp_path, (text % __name__).replace("make_samples", "none")), allow_functions=True
        )


@pytest.mark.parametrize("name", ["digits.yaml", "digits64.yaml"])
def test_shipped_sample_sets_have_the_hash_that_they_name(name):
    pytest.importorskip("sklearn")
    samples = load_recipe(CALIB / name)
    assert samples.arrays[next(iter(samples.arrays))].shape[1:] == (1, 8, 8)


def test_every_shipped_recipe_is_sound():
    from nm2trt.calibration.recipe import read_recipe

    names = sorted(path.name for path in CALIB.glob("*.yaml"))
    assert names
    for name in names:
        assert read_recipe(CALIB / name).count >= 2


def test_hash_that_no_longer_fits_is_told(tmp_path):
    arrays(tmp_path)
    text = f"source: {{kind: npz, path: data.npz}}\ncount: 4\nsha256: '{'0' * 64}'\n"
    with pytest.raises(DataError, match=r"the samples have the hash .* not the 0000"):
        load_recipe(written(tmp_path, text))


@pytest.mark.parametrize("path", ["../data.npz", "/etc/passwd", "link.npz"])
def test_paths_stay_below_the_recipe_unless_another_root_is_given(tmp_path, path):
    arrays(tmp_path)
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "link.npz").symlink_to(tmp_path / "data.npz")
    recipe = written(inner, f"source: {{kind: npz, path: {path}}}\ncount: 2\n")
    with pytest.raises(InputError, match="leaves the folder"):
        load_recipe(recipe)
    allowed = written(inner, "source: {kind: npz, path: data.npz}\ncount: 2\n")
    assert len(load_recipe(allowed, data_root=tmp_path)) == 2


def test_images_that_link_out_of_the_folder_are_not_read(tmp_path):
    (tmp_path / "secret").mkdir()
    pictures(tmp_path / "secret")
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.png").symlink_to(tmp_path / "secret" / "sub" / "0.png")
    with pytest.raises(InputError, match="holds no image"):
        load_recipe(written(tmp_path, "source: {kind: images, path: pictures}\ncount: 1\n"))


BAD = {
    "python-tag": ("source: !!python/object/apply:os.system ['true']\ncount: 1\n", "cannot be read at line 1: could not determine a constructor"),
    "alias": ("a: &a [1]\nb: *a\n", r"cannot be read at line 2: aliases \(\*name\) are not read"),
    "no-mapping": ("- 1\n", "is not a recipe, which is a mapping"),
    "broken": ("source: {kind: digits\n", "cannot be read at line 2"),
    "unknown-key": ("source: {kind: digits}\ncount: 2\nseeds: 3\n", "line 3: seeds: unknown key; did you mean 'seed'"),
    "unknown-inner-key": ("source: {kind: digits, path: x}\ncount: 2\n", "source.digits.path: unknown key"),
    "unknown-kind": ("source: {kind: tar}\ncount: 2\n", "source: .*'npz'.*'idx'"),
    "missing": ("source: {kind: digits}\n", "count: Field required"),
    "zero": ("source: {kind: digits}\ncount: 0\n", "count: Input should be greater than or equal to 1"),
    "too-many": ("source: {kind: digits}\ncount: 2000\n", "count: 2000 is more than the 1,797 samples of the source"),
    "range": ("source: {kind: digits}\ncount: 2\nrange: [5, 5000]\n", r"range: \[5, 5000\] does not lie in the 1,797 samples"),
    "std": ("source: {kind: digits}\ncount: 2\npreprocess: {std: [0]}\n", "preprocess.std: every standard deviation must be positive"),
    "infinite": ("source: {kind: digits}\ncount: 2\npreprocess: {divide: .inf}\n", "preprocess.divide: Input should be a finite number"),
    "nan": ("source: {kind: digits}\ncount: 2\npreprocess: {mean: [.nan]}\n", "preprocess.mean.0: Input should be a finite number"),
    "text": ("source: {kind: digits}\ncount: 2\npreprocess: {divide: '16'}\n", "preprocess.divide: Input should be a valid number"),
    "mean": ("source: {kind: digits}\ncount: 2\npreprocess: {mean: [1, 2, 3]}\n", "mean has 3 values, the samples 8 channels"),
    "pattern": ("source: {kind: images, path: ., pattern: '../*'}\ncount: 2\n", "source.images.pattern: the pattern leaves the folder"),
    "function": ("source: {kind: function, function: 'os.system(1)'}\ncount: 2\n", "source.function.function: String should match pattern"),
    "no-array": ("source: {kind: npz, path: data.npz, arrays: [y]}\ncount: 2\n", r"has no array 'y'; it holds \['labels', 'x'\]"),
    "missing-file": ("source: {kind: npz, path: none.npz}\ncount: 2\n", "none.npz does not exist"),
    "no-npz": ("source: {kind: npz, path: recipe.yaml}\ncount: 2\n", "is not a sound .npz or .npy"),
    "no-idx": ("source: {kind: idx, path: recipe.yaml}\ncount: 2\n", "is not an IDX file: its first bytes are 736f7572"),
    "empty-folder": ("source: {kind: images, path: .}\ncount: 2\n", "holds no image"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_one_sentence_for_each_mistake(case, tmp_path):
    arrays(tmp_path)
    text, message = BAD[case]
    with pytest.raises(InputError, match=message):
        load_recipe(written(tmp_path, text))


def test_pickled_objects_are_not_read(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"is not a sound .npz or .npy of plain arrays"):
        load_recipe(written(tmp_path, "source: {kind: npy, path: x.npy}\ncount: 1\n"))


def test_nan_and_text_are_no_samples():
    with pytest.raises(DataError, match="input 'x' holds NaN"):
        SampleSet({"x": np.array([[np.nan]])}, (0,), "here")
    with pytest.raises(DataError, match="dtype <U1; inputs must be numbers"):
        SampleSet({"x": np.array([["a"]])}, (0,), "here")
    with pytest.raises(DataError, match="here gave no sample"):
        SampleSet({}, (), "here")


@pytest.mark.parametrize("shape", [(70, 5, 6), (3, 1, 5, 6), (9, 3, 5, 6), (2, 5, 6, 3)], ids=str)
def test_contact_sheet_shows_every_sample(tmp_path, shape):
    values = np.zeros(shape, dtype=np.float32)
    values[:, ..., 2:3, 2:3] = -1
    values[1] *= 0
    write_contact_sheet(SampleSet({"x": values}, tuple(range(shape[0])), "here"), tmp_path / "s.png")
    sheet = np.asarray(Image.open(tmp_path / "s.png"))
    count = min(64, shape[0])
    zoom = round(64 / 6)
    assert sheet.shape == (-(-count // 8) * (5 * zoom + 2), min(8, count) * (6 * zoom + 2), 3)
    tile = sheet[1 : 1 + 5 * zoom, 1 : 1 + 6 * zoom]
    assert {0, 255} == set(np.unique(tile))
    with pytest.raises(DataError, match="no input has the shape of images"):
        write_contact_sheet(SampleSet({"x": np.zeros((3, 4))}, (0, 1, 2), "here"), tmp_path / "t.png")
    assert not (tmp_path / "t.png").exists()


def test_a_recipe_is_read_piece_by_piece_with_its_labels(tmp_path):
    from sklearn.datasets import load_digits

    path = tmp_path / "digits.yaml"
    path.write_text(
        "source: {kind: digits}\nrange: [100, 200]\ncount: 40\npreprocess: {divide: 16, dtype: float32}\n"
    )
    opened, whole = open_recipe(path), load_recipe(path)
    pieces = [opened.read(start, start + 15)["input"] for start in range(0, 40, 15)]
    np.testing.assert_array_equal(np.concatenate(pieces), whole.arrays["input"])
    np.testing.assert_array_equal(opened.labels(15, 30), load_digits().target[list(whole.indices[15:30])])


def test_images_are_labelled_by_their_folder(tmp_path):
    for name in ("b/1.png", "a/2.png", "b/deep/3.png"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / "data" / name)
    (tmp_path / "r.yaml").write_text("source: {kind: images, path: data}\ncount: 3\n")
    assert open_recipe(tmp_path / "r.yaml").labels(0, 3).tolist() == [0, 1, 1]
    Image.new("L", (4, 4)).save(tmp_path / "data" / "loose.png")
    assert open_recipe(tmp_path / "r.yaml").labels(0, 3) is None


def test_idx_labels_come_from_their_own_file(tmp_path):
    (tmp_path / "x.idx").write_bytes(bytes([0, 0, 8, 2, 0, 0, 0, 3, 0, 0, 0, 1, 7, 8, 9]))
    (tmp_path / "y.idx").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 2, 0, 1]))
    (tmp_path / "r.yaml").write_text("source: {kind: idx, path: x.idx, labels: y.idx}\ncount: 3\n")
    assert open_recipe(tmp_path / "r.yaml").labels(0, 3).tolist() == [2, 0, 1]
    (tmp_path / "y.idx").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 2, 0]))
    with pytest.raises(DataError, match=r"labels have shape \(2,\) for 3 samples"):
        open_recipe(tmp_path / "r.yaml")
