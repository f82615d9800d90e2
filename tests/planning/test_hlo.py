"""A compiled text of our own making: loops count as often as they turn."""

import pytest

from ns_jax.planning import hlo

# ruff: noqa: E501
TEXT = """HloModule step, is_scheduled=true

%cond.1 (p.1: (s32[], f32[8])) -> pred[] {
  %p.1 = (s32[], f32[8]{0}) parameter(0)
  %bound = s32[] constant(5)
}

%sliced (q.0: f32[5,8], q.1: s32[]) -> f32[8] {
  %q.0 = f32[5,8]{1,0} parameter(0)
  %q.1 = s32[] parameter(1)
  %slice = f32[1,8]{1,0} dynamic-slice(%q.0, %q.1), dynamic_slice_sizes={1,8}
  ROOT %flat = f32[8]{0} bitcast(%slice)
}

%body.1 (p.2: (s32[], f32[5,8])) -> (s32[], f32[5,8]) {
  %p.2 = (s32[], f32[5,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p.2), index=0
  %stack = f32[5,8]{1,0} get-tuple-element(%p.2), index=1
  %row = f32[8]{0} fusion(%stack, %i), kind=kLoop, calls=%sliced, backend_config={"window_config":{"estimated_cycles":"100"}}
  %sum = (f32[8]{0}, bf16[4]{0}) all-reduce(%row, %row), replica_groups={{0,1},{2,3}}, to_apply=%add, metadata={op_name="jit(step)/bn"}
  ROOT %out = (s32[], f32[5,8]{1,0}) tuple(%i, %stack)
}

ENTRY %main (a: f32[5,8]) -> f32[5,8] {
  %a = f32[5,8]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %init = (s32[], f32[5,8]{1,0}) tuple(%zero, %a)
  %loop = (s32[], f32[5,8]{1,0}) while(%init), condition=%cond.1, body=%body.1
  %all = f32[10,8]{1,0} all-gather(%a), replica_groups=mesh['x'=2,'y'=4], device_ids=([2,4]T(1,0)) {'y'}, dimensions={0}
  ROOT %copy = f32[5,8]{1,0} copy(%a), backend_config={"window_config":{"estimated_cycles":"7"}}
}
"""


def test_loops_count_as_often_as_they_turn():
    found = hlo.read(TEXT)
    assert found.cycles == 5 * 100 + 7
    reduce, gather = sorted(found.collectives, key=lambda one: one.kind, reverse=True)
    assert (reduce.kind, reduce.num_bytes, reduce.group_size) == ("all-reduce", 8 * 4 + 4 * 2, 2)
    assert (reduce.count, reduce.name) == (5, "jit(step)/bn")
    assert (gather.kind, gather.num_bytes, gather.group_size, gather.count) == (
        "all-gather",
        320,
        4,
        1,
    )
    assert reduce.sent == 5 * 40 * 2 * 1 / 2 and gather.sent == 320 * 3 / 4


def test_a_text_without_estimates_is_an_error():
    with pytest.raises(RuntimeError, match="cycles"):
        hlo.read(TEXT.replace("estimated_cycles", "cycles"))
