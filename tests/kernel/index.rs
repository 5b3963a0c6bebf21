//! Keys, buckets and shards.

use anyhow::{Result, ensure};

use crate::case::{Case, case};
use crate::sockets::*;
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    let defaults = WorldOptions::default();
    let one_bucket = WorldOptions { buckets: 1, max_sockets: 4096, ..defaults };
    let one_bucket_many_shards = WorldOptions { buckets: 1, ..defaults };
    // On two CPUs and more; the programs count to 2^23 in one loop at most.
    let many_buckets = WorldOptions { buckets: 1 << 18, ..defaults };
    vec![
        case!(two_backends_in_one_bucket).index_only().with(one_bucket),
        case!(two_backends_in_one_bucket_of_each_shard).index_only().with(one_bucket_many_shards),
        case!(listing_counts_what_is_there).index_only(),
        case!(listing_of_eight_million_buckets).index_only().with(many_buckets),
        case!(listing_after_a_destroy).index_only(),
    ]
}

fn two_backends_in_one_bucket(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), tcp(1), udp6(1)])?;
    let mut client = world.client("client")?;
    let victims = connect_many(&mut client, Default::default(), udp(1), 40)?;
    connect_many(&mut client, Default::default(), tcp(1), 30)?;
    connect_many(&mut client, Default::default(), udp6(1), 20)?;
    let (counts, found) = world.walk(udp(1))?;
    ensure!(counts.visited == 40 && counts.passed_over == 50 && found.len() == 40, "{counts:?}");
    let report = world.reap(udp(1))?;
    ensure!(report.visited == 40, "{report:?}");
    expect_exactly(&report, &mut [&mut client], &victims.cookies)?;
    ensure!(expect_answers(&mut client)? == 50);
    Ok(())
}

fn two_backends_in_one_bucket_of_each_shard(world: &mut World) -> Result<()> {
    two_backends_in_one_bucket(world)
}

fn listing_counts_what_is_there(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), tcp(1), udp6(1), udp(2)])?;
    let mut client = world.client("client")?;
    for (backend, count) in [(udp(1), 3), (tcp(1), 4), (udp6(1), 5)] {
        connect_many(&mut client, Default::default(), backend, count)?;
    }
    for backend in [udp(2), udp6(1)] {
        crate::unconnected::sender(&mut client, &[backend])?;
    }
    let moved = connect(&mut client, udp(1))?;
    client.connect(moved.handle, udp(2).socket_addr())?;
    world.add_address(udp(3).addr())?;
    let left = connect(&mut client, udp(3))?;
    client.disconnect(left.handle)?;

    let listing = world.listing()?;
    let of = |backend| listing.backends.get(&backend).map(|e| (e.connected, e.unconnected, e.netns));
    ensure!(of(udp(1)) == Some((3, 0, 1)), "{listing:?}");
    ensure!(of(udp(2)) == Some((1, 1, 1)), "{listing:?}");
    ensure!(of(udp6(1)) == Some((5, 1, 1)), "{listing:?}");
    ensure!(of(tcp(1)) == Some((4, 0, 1)), "{listing:?}");
    ensure!(of(udp(3)).is_none() && listing.backends.len() == 4, "{listing:?}");
    ensure!(listing.no_peer == 1 && listing.moved_on == 1 && listing.stale == 0, "{listing:?}");
    ensure!(listing.sockets == 16 && listing.nodes == 17 && listing.unnamed == 0, "{listing:?}");
    ensure!(listing.counters.inserts == 17 && listing.counters.removals == 0, "{listing:?}");
    Ok(())
}

fn listing_of_eight_million_buckets(world: &mut World) -> Result<()> {
    listing_counts_what_is_there(world)
}

/// A destroyed socket is in the index until it is closed, but no longer connected to anything.
fn listing_after_a_destroy(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), tcp(1)])?;
    let mut client = world.client("client")?;
    for backend in [udp(1), tcp(1)] {
        connect_many(&mut client, Default::default(), backend, 3)?;
        expect_complete(&world.reap(backend)?, 3)?;
        let listing = world.listing()?;
        ensure!(!listing.backends.contains_key(&backend), "{backend}: {listing:?}");
    }
    let listing = world.listing()?;
    ensure!(listing.no_peer == 6 && listing.sockets == 6, "{listing:?}");
    Ok(())
}
