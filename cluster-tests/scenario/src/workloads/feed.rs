//! W6: readers of the change feed. Each goes on from where it was, on whichever node; now and then it forgets its place
//! and goes on from any other. It checks nothing: it writes down which places each page had.

use agora_history::{Answer, Level, Op, Reply};

use super::Task;

pub(super) async fn run(mut task: Task) {
    let mut after = 0;
    let mut head = 0;
    while task.next().await {
        let node = task.client.some_node();
        let rng = task.client.rng();
        if rng.per_mille(100) {
            after = rng.below(head + 1);
        }
        let limit = u32::try_from(rng.between(1, 60)).unwrap_or(1);
        let level = match rng.below(10) {
            0..6 => Level::Local,
            6..8 => Level::Bounded,
            8 => Level::Leader,
            _ => Level::Linearizable,
        };
        let min_index = rng.per_mille(200).then_some(head).filter(|head| *head > 0);
        let page = task.read(Op::ReadFeed { after, limit }, level, min_index, node).await;
        if let Reply::Yes { answer: Answer::Feed(page), .. } = page.reply {
            after = page.next_after;
            head = head.max(page.head_index);
        }
    }
}
