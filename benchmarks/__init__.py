"""Timings of transportjax next to its peers.

    python -m benchmarks                      # lists the topics
    python -m benchmarks sorting              # runs one
    python -m benchmarks sorting --quick --dtype float64 --json sorting.json

A topic is a module of this package that has a function `cases(options)`, which yields
`harness.Case`s: the arguments, and the rivals that do the same work on them, ours
first. `options` has the fields `quick` (small sizes only) and `dtype` (a name). Yield
the cases one by one, so that the arrays of one are freed before the next. A peer that
is not installed is left out. A topic whose rivals cannot do the same work has, in place
of that, a function `report(options)` that returns the record to write.

Rivals run in turn, round after round, in one process, so that a busy machine slows all
of them alike; what is quoted is the ratio of medians. Inputs are arguments, so that
nothing is folded into the program; outputs are blocked on; compile time is apart. On a
machine that others use, compare CPU time: it is the time of all threads of this
process. Memory is what the compiler plans for arguments, outputs and temporaries.

Results go to `benchmarks/results/<topic>-<device>.json`, with a plot beside it. A quick
run writes only where `--json` says.
"""
