"""The budget of an idle client, over a minute: statements a second, and CPU. `make idle`."""

from __future__ import annotations

import pytest

from tests.fix_idle import CountingServer, counting

__all__ = ["counting"]

SECONDS = 60.0
FOLLOWER, LEADER, CPU = 2.0, 3.0, 0.01


@pytest.mark.timeout(300)
@pytest.mark.parametrize("queues", [1, 1000])
def test_an_idle_client_keeps_to_its_budget(counting: CountingServer, queues: int) -> None:
    with counting.resting(queues) as idlers:
        leader, follower = counting.measure(idlers, SECONDS)
    print(f"\n{queues} queue(s), the leader, who watches too: {leader}\n{queues} queue(s), a follower: {follower}")
    assert leader.statements <= LEADER
    assert follower.statements <= FOLLOWER
    assert max(leader.cpu, follower.cpu) < CPU
