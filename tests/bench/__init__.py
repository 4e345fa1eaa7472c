"""How fast and how small Hydra is on this machine: `make bench`, or `python -m tests.bench [FIGURE …]`.

    1  start_up.py      what a handler costs that finds nothing to do
    2  propagation.py   from a publish until 1,000 nodes have read what it means for them
    3  rollback.py      from a rollback until the first instance is draining
    4  memory.py        what all of a node's processes take at rest
    5  reloads.py       what a reload takes beyond the drain time and the service's own loading
    6  downloads.py     sync against s5cmd, rclone, boto3 and cp
    7  crowd.py         what 1,000 pods on 200 nodes cost the planner and one discover
    8  unchanged.py     what is moved for 10 GiB that hardly changed; only when asked for

Everything is measured on real parts. These are figures, not tests: a missed aim is said, not raised.
"""
