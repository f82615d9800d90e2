import numpy as np
import pytest

from ns_jax import trees


def tree(kernel=(2, 3), **more):
    return {"stem": {"kernel": np.zeros(kernel, np.float32), **more}, "head": [np.ones(4)]}


def test_paths_and_counts():
    assert list(trees.by_path(tree())) == ["head/0", "stem/kernel"]
    assert trees.count(tree()) == 10


def test_difference_names_missing_surplus_and_misshapen_leaves():
    trees.check_same(tree(), tree(), "same")
    with pytest.raises(ValueError) as error:
        trees.check_same(tree(bias=np.zeros(3)), tree(kernel=(2, 5)), "they differ")
    lines = str(error.value).splitlines()
    assert lines[0].startswith("they differ")
    assert [line.strip() for line in lines[1:]] == [
        "stem/bias: 'float64[3]' expected, None found",
        "stem/kernel: 'float32[2, 3]' expected, 'float32[2, 5]' found",
    ]


def test_digest_follows_content_paths_and_types():
    changed = tree()
    changed["stem"]["kernel"][0, 0] = 1e-30
    renamed = {"stem": {"weight": tree()["stem"]["kernel"]}, "head": [np.ones(4)]}
    digests = [trees.digest(t) for t in (tree(), changed, renamed, tree(kernel=(3, 2)))]
    assert digests[0] == trees.digest(tree()) and len(set(digests)) == 4
