//! What it costs to ask a cold entity: one `ractor` actor per entity, against hosts that carry many.
//!
//! `cargo run --release -p agora-cluster-tests --example host_cost` prints microseconds per ask. The figures stand in
//! the README where it says why entities live with hosts.

use std::{sync::Arc, time::Instant};

use agora_actors::{
    domain::{Entity, OrderId, Sku, SkuCommand, SkuId, Uid},
    host::Reply,
    hosts::HostSet,
};
use agora_bench::stocked_sku;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

const ENTITIES: u128 = 100_000;
const RESIDENTS_MAX: usize = 10_000;

/// One actor for one SKU, as small as it can be.
struct Single;

enum Ask {
    Reserve(u32, RpcReplyPort<bool>),
}

impl Actor for Single {
    type Msg = Ask;
    type State = Sku;
    type Arguments = Sku;

    async fn pre_start(&self, _: ActorRef<Ask>, sku: Sku) -> Result<Sku, ActorProcessingErr> {
        Ok(sku)
    }

    async fn handle(&self, _: ActorRef<Ask>, message: Ask, sku: &mut Sku) -> Result<(), ActorProcessingErr> {
        let Ask::Reserve(quantity, reply) = message;
        let command = SkuCommand::Reserve { order: OrderId(Uid(1)), quantity };
        let _ = reply.send(Sku::decide(Some(sku), &command).is_ok());
        Ok(())
    }
}

fn report(what: &str, started: Instant) {
    println!("{what:<48} {:>8.2} us per ask", started.elapsed().as_secs_f64() * 1e6 / ENTITIES as f64);
}

async fn ask_hosts(set: &HostSet<Sku>, ids: impl Iterator<Item = u128>) {
    for id in ids {
        let command = SkuCommand::Reserve { order: OrderId(Uid(id)), quantity: 1 };
        let reply = set.ask(1, id, command, Vec::new(), false).await.expect("the host answers");
        // Dropping the grant gives back; that message is part of the cost here as it is of a kept one.
        assert!(matches!(reply, Reply::Granted(_)));
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let template = stocked_sku(SkuId(Uid(1)), 1_000);
    let started = Instant::now();
    for _ in 0..ENTITIES {
        let (actor, handle) = Actor::spawn(None, Single, template.clone()).await.expect("spawned");
        assert!(ractor::call!(actor, Ask::Reserve, 1).expect("answered"));
        actor.stop(None);
        handle.await.expect("stopped");
    }
    report("an actor per entity, cold: spawn, ask, stop", started);

    let (actor, _handle) = Actor::spawn(None, Single, template.clone()).await.expect("spawned");
    let started = Instant::now();
    for _ in 0..ENTITIES {
        assert!(ractor::call!(actor, Ask::Reserve, 1).expect("answered"));
    }
    report("an actor per entity, warm: ask", started);

    let load = Arc::new(move |_id| Ok(Some(template.clone())));
    let set = HostSet::<Sku>::start(1, RESIDENTS_MAX, load).await.expect("hosts");
    let started = Instant::now();
    ask_hosts(&set, 0..ENTITIES).await;
    report("a host, cold: load, ask, grant, evict", started);
    let started = Instant::now();
    ask_hosts(&set, (0..ENTITIES).map(|_| 7)).await;
    report("a host, warm: ask, grant", started);
    println!("entities in memory at the end: {}, at most {RESIDENTS_MAX}", set.residents());
}
