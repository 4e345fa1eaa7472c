"""Chaos on a real cluster: `make chaos SEED=… MINUTES=…` (`python -m tests.chaos`).

    schedule.py   seed, duration          ->  what is done when (pure)
    actions.py    what is done            ->  a real cluster under traffic
    cuts.py       how a node is cut off from Consul
    recorder.py   KV, health, files, log  ->  one list of events; it asks nothing of Hydra
    promises.py   the list of events      ->  the promises that were broken (pure; knows nothing but them)

The tests of this folder try the checker: each promise is broken in a list of events, and it must say so. With
`python -m tests.chaos.mutants` it is tried on real clusters whose Hydra has lost a protection.
"""
