//! Attacks against a table: what they do is decided by the seed, they hit leaders and followers, and they leave nothing
//! broken; and they notice a cluster that lets somebody in or does not heal.

use std::{sync::Arc, time::Duration};

use agora_history::{Fault, Op, Role};
use tokio::sync::watch;

use super::{
    Campaign, all,
    fake::{Fake, Flaw},
    missing,
};
use crate::{
    cluster::{Act, Cluster},
    recorder::Recorder,
    rng::Rng,
    schedule::{Context, Nemesis},
};

struct Ran {
    result: Result<(), String>,
    faults: Vec<Fault>,
    acts: Vec<String>,
    broken: Vec<String>,
}

async fn attack(names: &[&str], size: u64, seed: u64, seconds: u64, flaw: Flaw) -> Ran {
    let fake = Arc::new(Fake::new(size, flaw, |_| false));
    let recorder = Arc::new(Recorder::new(seed));
    // Something is always under way.
    let intent = recorder.intend(1, Op::CreateAccount { name: "a".to_owned() });
    let under_way = recorder.begin(&intent);
    let (_stop, stopped) = watch::channel(false);
    let until = seconds * 1_000_000;
    let context = Context::new(fake.clone(), recorder.clone(), Rng::new(seed), until, stopped);
    let result = Campaign::of(names).expect("known names").run(&context).await;
    // A round may end while its last victim is about to die of what was done to it.
    tokio::time::sleep(Duration::from_secs(4)).await;
    drop(under_way);
    let broken = fake.broken(usize::try_from(size).unwrap());
    let (_, faults) = recorder.take().expect("a whole record");
    Ran { result, faults, acts: fake.acts(), broken }
}

fn names() -> Vec<&'static str> {
    all().iter().map(|attack| attack.name()).collect()
}

#[test]
fn there_are_eighteen_and_each_has_its_number() {
    let expected: Vec<String> = (1..=18).map(|number| format!("N{number}")).collect();
    assert_eq!(names(), expected);
    assert!(Campaign::of(&["N19"]).is_err());
    assert!(Campaign::of(&[]).is_err());
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_does_the_same() {
    for name in names() {
        let (one, again) = (attack(&[name], 3, 7, 40, Flaw::None).await, attack(&[name], 3, 7, 40, Flaw::None).await);
        assert_eq!(one.acts, again.acts, "{name}");
        assert_eq!(one.faults, again.faults, "{name}");
        let other = attack(&[name], 3, 8, 40, Flaw::None).await;
        assert!(one.faults != other.faults, "{name}: two seeds did the same");
    }
}

#[tokio::test(start_paused = true)]
async fn every_attack_ends_with_nothing_broken() {
    for name in names() {
        for (size, seed) in [(3, 1), (3, 2), (5, 3), (3, 4), (5, 5), (3, 6)] {
            let ran = attack(&[name], size, seed, 60, Flaw::None).await;
            assert_eq!(ran.result, Ok(()), "{name} seed {seed}");
            assert!(ran.broken.is_empty(), "{name} seed {seed} size {size}: {:#?}", ran.broken);
            assert!(ran.faults.iter().all(|fault| fault.until.is_some()), "{name} seed {seed}: a fault is still on");
            assert!(ran.faults.iter().all(|fault| fault.nemesis == name), "{name} is also called otherwise");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_attack_hits_leaders_and_followers_under_load_within_four_rounds() {
    for name in names() {
        for (size, seed) in [(3, 11), (3, 12), (5, 13)] {
            let ran = attack(&[name], size, seed, 90, Flaw::None).await;
            let hits = |role| {
                let hit = |fault: &Fault| fault.in_flight > 0 && fault.targets.iter().any(|target| target.role == role);
                ran.faults.iter().position(hit)
            };
            // A round may be noted as two faults.
            for role in [Role::Leader, Role::Follower] {
                let at = hits(role);
                assert!(at.is_some_and(|at| at < 8), "{name} seed {seed}: {role:?} first hit at {at:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn rounds_are_short() {
    for name in names() {
        let ran = attack(&[name], 3, 21, 120, Flaw::None).await;
        println!("{name}: {} faults in two minutes", ran.faults.len());
        assert!(ran.faults.len() >= 10, "{name}: {} faults in two minutes", ran.faults.len());
    }
}

#[tokio::test(start_paused = true)]
async fn all_together_take_turns() {
    let names = names();
    let ran = attack(&names, 3, 31, 400, Flaw::None).await;
    assert_eq!(ran.result, Ok(()));
    assert!(ran.broken.is_empty(), "{:#?}", ran.broken);
    for name in names {
        let rounds = ran.faults.iter().filter(|fault| fault.nemesis == name).count();
        assert!(rounds >= 2, "{name} had {rounds} turns");
    }
}

#[tokio::test(start_paused = true)]
async fn details_tell_what_was_done() {
    let ran = attack(&["N6"], 3, 41, 60, Flaw::None).await;
    let holed = ran.faults.iter().find(|fault| fault.kind.contains("holed on all")).expect("one round holes all");
    assert_eq!(holed.detail.matches("RowsJournal").count(), 3, "{}", holed.detail);
    assert_eq!(holed.targets.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn who_lets_the_forgetful_in_is_found_out() {
    for name in ["N11", "N16"] {
        let ran = attack(&[name], 3, 51, 60, Flaw::LetsTheForgetfulIn).await;
        let error = ran.result.expect_err("a forgetful node was let in");
        assert!(error.contains("forgot"), "{name}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_does_not_heal_is_found_out() {
    for name in ["N5", "N6", "N9"] {
        let ran = attack(&[name], 3, 61, 200, Flaw::NeverStarts).await;
        let error = ran.result.expect_err("the nodes do not start");
        assert!(error.contains("stay up"), "{name}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_open_door_is_found_out() {
    let error = attack(&["N17"], 3, 71, 60, Flaw::OpensToStrangers).await.result.expect_err("the door is open");
    assert!(error.contains("stranger"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_done_is_said_before() {
    let fake = Fake::new(3, Flaw::None, |act| matches!(act, Act::PowerLoss(_) | Act::Refound(_)));
    let campaign = |names: &[&str]| Campaign::of(names).expect("known names");
    assert!(!campaign(&["N6"]).fits(&fake) && !campaign(&["N1", "N9"]).fits(&fake));
    assert!(campaign(&["N1", "N5", "N11"]).fits(&fake));
    let left = Campaign::that_fits(&["N1", "N6", "N9"], &fake).expect("one is left");
    assert_eq!(left.name(), "N1");
    let forgetful = super::named("n11").expect("in either case");
    let (needs, wants) = missing(&*forgetful, &fake);
    assert_eq!((needs.len(), wants), (0, vec![Act::Refound(1)]));
    // And it gets by without: the variant that needs it is left out.
    let cluster: Arc<dyn Cluster> = Arc::new(fake);
    let (_stop, stopped) = watch::channel(false);
    let context = Context::new(cluster, Arc::new(Recorder::new(1)), Rng::new(1), 120_000_000, stopped);
    assert_eq!(campaign(&["N11"]).run(&context).await, Ok(()));
}
