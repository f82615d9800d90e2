from ns_jax.programs import train


class Share:
    def __init__(self, share, elapsed=31.0):
        self._share, self._elapsed = share, elapsed

    def elapsed(self):
        return self._elapsed

    def share(self):
        return self._share


def test_a_device_that_waits_for_images_is_said_once_with_its_share(capsys):
    assert not train._warn_if_input_bound(Share(0.09), None)
    assert not train._warn_if_input_bound(Share(0.9, elapsed=5.0), None)  # too early to say
    assert not capsys.readouterr().err
    assert train._warn_if_input_bound(Share(0.375), 3)
    said = capsys.readouterr().err
    assert "input-bound: the device waited for images 38% of the time" in said
    assert "data.workers is 3" in said
