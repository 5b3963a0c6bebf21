#!/usr/bin/env python3
"""Simulates how long CPUs wait for the locks of the index's shards: every CPU connects and closes UDP sockets without a pause.

An operation takes WORK ns outside of the locks, and has two holds of HOLD ns, each of a shard at random (a socket's shard is a
hash of its cookie). WORK and HOLD are from benches/runs/hooks (udp-connect-close, one thread): 5348 ns without hooks; 380 ns in
our programs, 114 ns in empty ones; all of the difference is taken for time under the two locks, which is more than it is. Coherence
traffic between CPUs is not in it.
"""
import heapq
import random

WORK, HOLD, OPERATIONS = 5348, (380 - 114) / 2, 60_000


def wait_ns(cpus, shards):
    """Mean wait of one operation."""
    chance = random.Random(1)
    free = [0.0] * shards
    ready = [(chance.random() * WORK, cpu, 0) for cpu in range(cpus)]
    heapq.heapify(ready)
    waited = 0.0
    for _ in range(2 * OPERATIONS):
        now, cpu, hold = heapq.heappop(ready)
        shard = chance.randrange(shards)
        start = max(now, free[shard])
        waited += start - now
        free[shard] = start + HOLD
        # Half of the work is before the connect, half between connect and close, give or take a half of that.
        heapq.heappush(ready, (free[shard] + WORK / 2 * (0.5 + chance.random()), cpu, 1 - hold))
    return waited / OPERATIONS


print("  CPUs  shards  wait, ns  share of the operation")
for cpus in (1, 2, 16, 128):
    for shards in sorted({1, 64, min(16 * cpus, 256), 16 * cpus}):
        wait = wait_ns(cpus, shards)
        print(f"{cpus:6} {shards:7} {wait:9.1f} {100 * wait / (WORK + 2 * HOLD + wait):6.2f} %")
