"""What a client that has nothing to do asks of the server: so little that a fleet of them is no load.

Ten seconds of it; `make idle` measures a minute, and the CPU too.
"""

from __future__ import annotations

from tests.fix_idle import CountingServer, counting

__all__ = ["counting"]

SECONDS = 10.0
# What comes every few seconds may come once more than its share, what comes every thirty may come in these very ten.
FOLLOWER = 2.0 + 0.4
LEADER = 3.0 + 0.8


def test_an_idle_fleet_is_no_load_with_one_queue_and_with_a_thousand(counting: CountingServer) -> None:
    """The leader, who watches over the others here, and a follower, of each."""
    with counting.resting(1) as (leader, follower), counting.resting(1000) as (leader_of_many, follower_of_many):
        rests = counting.measure([leader, follower, leader_of_many, follower_of_many], SECONDS)
    for rest, most in zip(rests, (LEADER, FOLLOWER, LEADER, FOLLOWER), strict=True):
        assert rest.texts, "nothing was counted"
        assert rest.statements - rest.connected <= most, str(rest)
        assert rest.connections <= 2, f"connections come and go: {rest}"  # one of each pool
