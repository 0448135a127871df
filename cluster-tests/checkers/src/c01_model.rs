//! C1: everything that was answered, against an independent model that replays the log.
//!
//! The feed of one node (C9 sees to it that all nodes tell the same) is replayed transaction by transaction on the
//! [model](crate::model). Then:
//!
//! - every event must be legal where it stands, and all events of a request must be exactly what it asked for, with the
//!   prices, holds and refunds of that moment; what nobody sent must be an order's time that ran out;
//! - the answer of a write must be the state behind its own transaction, at its index; the answer of a read the state at
//!   the index it names;
//! - a refusal must be true somewhere between the highest index anybody had been told when it was asked for and its own;
//! - who asks after another was answered has the higher index;
//! - what was refused or not done left nothing in the feed, and an unknown happened at most once;
//! - what the nodes say at the end is what the model has.

use agora_history::{
    Answer, Call, FeedEvent, FeedPage, Item, Level, Op, Operation, Order, Refusal, Reply, RunData, operations,
};

use crate::{
    Checked,
    model::{
        Place, World,
        answers::{self, Verdict},
        causes::summed,
        floor::{Floor, binds},
        refusals::{self, Own, Truth, Window},
        replay::{Requests, replay},
    },
    report::Report,
    words::{Status, longest_feed},
};

/// Checks a run.
pub fn check(data: &RunData) -> Checked {
    let mut report = Report::new("C1", "every answer is that of a shop that follows the log");
    if data.feeds.is_empty() {
        report.find("no node told its feed", &[], None);
        return report.done();
    }
    let feed = longest_feed(data);
    let requests = Requests::new(operations(&data.calls), &mut report);
    let world = replay(feed, &requests, &mut report);
    report.figure("events", feed.len() as f64);
    report.figure("transactions", f64::from(world.place()));
    let mut model = Model { world, floor: Floor::new(&data.calls), report, keys: Vec::new(), line_by_line: 0 };
    model.keys(&requests);
    let mut unknown_and_done = 0u64;
    for operation in &requests.all {
        model.report.looked_at(1);
        if operation.request.is_write() {
            unknown_and_done += u64::from(model.write(operation));
        } else {
            operation.attempts.iter().for_each(|call| model.read(call, feed));
        }
    }
    model.finals(data);
    model.report.figure("refusals_true_only_line_by_line", model.line_by_line as f64);
    model.report.figure("unknowns_that_happened", unknown_and_done as f64);
    model.report.done()
}

struct Model<'a> {
    world: World<'a>,
    floor: Floor,
    report: Report,
    /// Key and trace of every single order that was asked for, sorted by key.
    keys: Vec<(&'a str, &'a str)>,
    line_by_line: u64,
}

impl<'a> Model<'a> {
    fn keys(&mut self, requests: &Requests<'a>) {
        for operation in requests.all.iter().filter(|operation| matches!(operation.request, Op::Place(_))) {
            for call in &operation.attempts {
                self.keys.extend(call.key.as_deref().map(|key| (key, call.trace.as_str())));
            }
        }
        self.keys.sort_unstable();
        self.keys.dedup();
    }

    fn wrong(&mut self, operation: &Operation<'_>, why: &str, index: Option<u64>) {
        let what = format!("{:?} at index {index:?}: {why}", operation.request);
        self.report.find(what, &[operation.op], index);
    }

    /// Judges a write. True for an unknown one that happened.
    fn write(&mut self, operation: &Operation<'a>) -> bool {
        let trace = operation.attempts[0].trace.as_str();
        let place = self.world.traces.get(trace).copied();
        let happened_at = place.map(|place| self.world.index_of(place));
        self.real_time(operation, happened_at);
        let Some(call) = operation.decisive else { return place.is_some() };
        let (Reply::Yes { .. } | Reply::Refused { .. }) = &call.reply else { return false };
        let Some(index) = call.index else {
            self.wrong(operation, "an answer without an index", None);
            return false;
        };
        let verdict = match &call.reply {
            Reply::Yes { answer, .. } => match place {
                Some(place) => self.acknowledged(operation, answer, place, index),
                None => self.nothing_changed(operation, answer, index),
            },
            Reply::Refused { refusal, .. } => self.refused(operation, refusal, index),
            _ => Ok(()),
        };
        if let Err(why) = verdict {
            self.wrong(operation, &why, Some(index));
        }
        false
    }

    /// Who asks later comes later. Entries that were told of when a write was asked for were closed, so it lies behind
    /// them; only an answer given before, to whoever had the key first, may be theirs.
    fn real_time(&mut self, operation: &Operation<'a>, happened_at: Option<u64>) {
        let (floor, by) = self.floor.before(operation.invoked);
        let told = operation.decisive.filter(|call| binds(call));
        let replayed = told.is_some_and(|call| call.replayed);
        for index in happened_at.into_iter().chain(told.and_then(|call| call.index)) {
            if index < floor || (index == floor && floor > 0 && !replayed) {
                let what = format!(
                    "{:?} is at index {index}, and before it was asked for somebody had been told of {floor}",
                    operation.request
                );
                let ops: Vec<u64> = std::iter::once(operation.op).chain(by).collect();
                self.report.find(what, &ops, Some(index));
                return;
            }
        }
    }

    fn acknowledged(&mut self, operation: &Operation<'a>, answer: &Answer, place: Place, index: u64) -> Verdict {
        let at = self.world.index_of(place);
        if at != index {
            return Err(format!("it was told to be at {index}, the feed has it at {at}"));
        }
        let world = &self.world;
        match (operation.request, answer) {
            (Op::CreateSku { code, .. }, Answer::Sku(sku)) => {
                let known = world.skus.get(sku.id.as_str());
                let is_new = known.is_some_and(|known| known.code == code && known.terms.at(place - 1).is_none());
                is_new.then_some(()).ok_or_else(|| format!("{} is not the SKU it made", sku.id))?;
                answers::sku(world, sku, place)
            }
            (Op::ChangeSku { sku: asked, .. }, Answer::Sku(sku)) if *asked == sku.id => answers::sku(world, sku, place),
            (Op::Receive { lines }, Answer::Stocks(told)) => {
                let asked = summed(lines);
                if told.len() != asked.len() || !told.iter().all(|stock| asked.contains_key(stock.sku.as_str())) {
                    return Err("not the stock of what was received".to_owned());
                }
                told.iter().try_for_each(|stock| answers::stock(world, stock, place))
            }
            (Op::AdjustStock { sku, .. }, Answer::Stocks(told)) => match told.as_slice() {
                [stock] if stock.sku == *sku => answers::stock(world, stock, place),
                _ => Err("not the stock of what was adjusted".to_owned()),
            },
            (Op::CreateAccount { .. }, Answer::Account(account)) => {
                let known = world.accounts.get(account.id.as_str());
                let is_new = known.is_some_and(|past| past.at(place).is_some() && past.at(place - 1).is_none());
                is_new.then_some(()).ok_or_else(|| format!("{} is not the account it made", account.id))?;
                answers::account(world, account, place)
            }
            (Op::AdjustWallet { account: asked, .. }, Answer::Account(account)) if *asked == account.id => {
                answers::account(world, account, place)
            }
            (Op::Place(_), Answer::Order(order)) => {
                is_new(world, order, place)?;
                answers::order(world, order, place)
            }
            (Op::PlaceBatch(_), Answer::Orders(items)) => self.batch(operation, items, Some(place), index),
            (request, Answer::Order(order)) if moved(request).is_some_and(|(asked, _)| asked == order.id) => {
                if order.no_change {
                    return Err("it changed the order and says that it did not".to_owned());
                }
                answers::order(world, order, place)
            }
            (_, answer) => Err(format!("{answer:?} is no answer to that")),
        }
    }

    /// A yes that left nothing in the feed: all was so already, somewhere in the entry it names.
    fn nothing_changed(&mut self, operation: &Operation<'a>, answer: &Answer, index: u64) -> Verdict {
        let world = &self.world;
        let (from, to) = (world.at_index(index.saturating_sub(1)), world.at_index(index));
        match (operation.request, answer) {
            (Op::ChangeSku { sku: asked, expected_version, price, sellable }, Answer::Sku(sku)) if *asked == sku.id => {
                let (price, sellable) = (price.unwrap_or(sku.price), sellable.unwrap_or(sku.sellable));
                if sku.version != *expected_version || (price, sellable) != (sku.price, sku.sellable) {
                    return Err(format!("acknowledged, not in the feed, and {sku:?} is not what was asked for"));
                }
                (from..=to)
                    .map(|place| answers::sku(world, sku, place))
                    .find(Result::is_ok)
                    .unwrap_or_else(|| answers::sku(world, sku, to))
            }
            (Op::PlaceBatch(_), Answer::Orders(items)) => self.batch(operation, items, None, index),
            (request, Answer::Order(order)) => {
                let asked = moved(request).filter(|(asked, _)| *asked == order.id);
                let is_so = asked.is_some_and(|(_, to)| Status::of(&order.status) == Some(to)) && order.no_change;
                is_so.then_some(()).ok_or("acknowledged, and not in the feed")?;
                (from..=to)
                    .map(|place| answers::order(world, order, place))
                    .find(Result::is_ok)
                    .unwrap_or_else(|| answers::order(world, order, to))
            }
            _ => Err("acknowledged, and not in the feed".to_owned()),
        }
    }

    fn window(&self, operation: &Operation<'_>, index: u64) -> Window {
        let from = self.world.at_index(self.floor.before(operation.invoked).0);
        Window { from, to: self.world.at_index(index).max(from) }
    }

    fn refused(&mut self, operation: &Operation<'a>, refusal: &Refusal, index: u64) -> Verdict {
        let window = self.window(operation, index);
        let truth = refusals::of_request(&self.world, operation.request, refusal, window);
        self.judge(truth, refusal, window)
    }

    fn judge(&mut self, truth: Truth, refusal: &Refusal, window: Window) -> Verdict {
        match truth {
            Truth::True => Ok(()),
            Truth::LineByLine => {
                self.line_by_line += 1;
                Ok(())
            }
            Truth::Unknown => {
                self.report.undecided();
                Ok(())
            }
            Truth::False(why) => {
                let (from, to) = (self.world.index_of(window.from), self.world.index_of(window.to));
                Err(format!("refused with {} falsely between index {from} and {to}: {why}", refusal.code))
            }
        }
    }

    /// Item by item: placed ones are the orders of the transaction, refused ones were refused with reason.
    fn batch(&mut self, operation: &Operation<'a>, items: &[Item], place: Option<Place>, index: u64) -> Verdict {
        let Op::PlaceBatch(baskets) = operation.request else { return Ok(()) };
        if baskets.len() != items.len() {
            return Err(format!("{} items are answered, {} were asked for", items.len(), baskets.len()));
        }
        let mut window = self.window(operation, index);
        if let Some(place) = place {
            window.to = (place - 1).max(window.from);
        }
        let mut own = Own::default();
        let mut last_sub = 0;
        for (basket, item) in baskets.iter().zip(items) {
            match item {
                Item::Refused(refusal) => {
                    let truth = refusals::of_basket(&self.world, basket, refusal, window, &own);
                    self.judge(truth, refusal, window)?;
                }
                Item::Order(order) => {
                    let place = place.ok_or("an order is told, and none was placed")?;
                    let sub = is_new(&self.world, order, place)?;
                    if sub <= last_sub {
                        return Err("items are not in the order they were asked for".to_owned());
                    }
                    last_sub = sub;
                    answers::order(&self.world, order, place)?;
                    let lines = summed(&basket.items);
                    let told = order.lines.iter().map(|line| (line.sku.as_str(), i64::from(line.quantity)));
                    if order.account != basket.account || !told.eq(lines.iter().map(|(sku, units)| (*sku, *units))) {
                        return Err(format!("{} is not what its item asked for", order.id));
                    }
                    for (sku, units) in lines {
                        *own.units.entry(sku).or_default() += units;
                    }
                    if basket.hold {
                        *own.money.entry(basket.account.as_str()).or_default() += order.total;
                    }
                }
            }
        }
        Ok(())
    }

    fn read(&mut self, call: &'a Call, feed: &[FeedEvent]) {
        if matches!(call.level, Some(Level::Linearizable)) {
            self.sees_all_before(call);
        }
        let (Reply::Yes { answer, .. }, Some(index)) = (&call.reply, call.index) else { return };
        let (world, place) = (&self.world, self.world.at_index(index));
        let verdict = match (&call.request, answer) {
            (Op::ReadSku { sku: asked }, Answer::Sku(sku)) if *asked == sku.id => answers::sku(world, sku, place),
            (Op::ReadStock { sku }, Answer::Stocks(told)) => match told.as_slice() {
                [stock] if stock.sku == *sku => answers::stock(world, stock, place),
                _ => Err("not the stock that was asked for".to_owned()),
            },
            (Op::ReadOrder { order: asked }, Answer::Order(order)) if *asked == order.id => {
                answers::order(world, order, place)
            }
            (Op::ReadWallet { account: asked }, Answer::Account(account)) if *asked == account.id => {
                answers::account(world, account, place)
            }
            (Op::ReadKey { key }, Answer::Order(order)) => match self.placed_under(key) {
                Some(placed) if is_new(world, order, placed).is_ok() => answers::order(world, order, place),
                _ => Err(format!("{} was not placed under that key", order.id)),
            },
            (Op::ReadLedger, Answer::Ledger { debits, credits }) => answers::ledger(world, (*debits, *credits), place),
            (Op::ReadFeed { after, .. }, Answer::Feed(page)) => page_of(feed, *after, page),
            (_, answer) => Err(format!("{answer:?} is no answer to that")),
        };
        if let Err(why) = verdict {
            self.report.find(format!("{:?} at index {index}: {why}", call.request), &[call.op], Some(index));
        }
    }

    fn placed_under(&self, key: &str) -> Option<Place> {
        let from = self.keys.partition_point(|(known, _)| *known < key);
        let same = self.keys[from..].iter().take_while(|(known, _)| *known == key);
        same.filter_map(|(_, trace)| self.world.traces.get(trace).copied()).next()
    }

    /// A linearizable read sees what anybody was told of before it was asked, whether it finds something or nothing.
    fn sees_all_before(&mut self, call: &'a Call) {
        let (floor, by) = self.floor.before(call.invoked);
        let ops: Vec<u64> = std::iter::once(call.op).chain(by).collect();
        if let (Reply::Yes { .. }, Some(index)) = (&call.reply, call.index)
            && index < floor
        {
            let what = format!("{:?} saw index {index}, and {floor} had been told before", call.request);
            self.report.find(what, &ops, Some(index));
        }
        let nothing = match &call.reply {
            Reply::NotDone { status, .. } => *status == 404,
            Reply::Refused { refusal, .. } => refusal.code == "NOT_FOUND" && call.index.is_none(),
            _ => false,
        };
        let (world, place) = (&self.world, self.world.at_index(floor));
        let was_there = match &call.request {
            Op::ReadSku { sku } | Op::ReadStock { sku } => {
                world.skus.get(sku.as_str()).is_some_and(|known| known.terms.at(place).is_some())
            }
            Op::ReadOrder { order } => {
                world.orders.get(order.as_str()).is_some_and(|known| known.version_at(place) > 0)
            }
            Op::ReadWallet { account } => {
                world.accounts.get(account.as_str()).is_some_and(|past| past.at(place).is_some())
            }
            Op::ReadKey { key } => self.placed_under(key).is_some_and(|placed| placed <= place),
            _ => false,
        };
        if nothing && was_there {
            let what = format!("{:?} found nothing, and it was there at index {floor}", call.request);
            self.report.find(what, &ops, Some(floor));
        }
    }

    /// What every node says at the end is what the model has at that index.
    fn finals(&mut self, data: &RunData) {
        for (node, said) in &data.finals.nodes {
            let (world, place) = (&self.world, self.world.at_index(said.index));
            let mut wrong: Vec<String> = Vec::new();
            let mut hold = |id: &str, verdict: Verdict| wrong.extend(verdict.err().map(|why| format!("{id}: {why}")));
            said.skus.iter().for_each(|(id, sku)| hold(id, answers::sku(world, sku, place)));
            said.stocks.iter().for_each(|(id, stock)| hold(id, answers::stock(world, stock, place)));
            said.accounts.iter().for_each(|(id, account)| hold(id, answers::account(world, account, place)));
            said.orders.iter().for_each(|(id, order)| hold(id, answers::order(world, order, place)));
            hold("ledger", answers::ledger(world, (said.debits, said.credits), place));
            let told = (said.skus.len(), said.stocks.len(), said.accounts.len(), said.orders.len());
            let skus = world.skus.values().filter(|sku| sku.terms.at(place).is_some()).count();
            let accounts = world.accounts.values().filter(|past| past.at(place).is_some()).count();
            let orders = world.orders.values().filter(|order| order.version_at(place) > 0).count();
            if told != (skus, skus, accounts, orders) {
                wrong.push(format!(
                    "{told:?} SKUs, stocks, accounts and orders are told, {:?} there are",
                    (skus, skus, accounts, orders)
                ));
            }
            self.report.looked_at((told.0 + told.1 + told.2 + told.3) as u64);
            for why in wrong {
                self.report.find(format!("node {node} at the end: {why}"), &[], Some(said.index));
            }
        }
    }
}

/// The order came into being in that transaction; where in its entry.
fn is_new(world: &World<'_>, order: &Order, place: Place) -> Result<u32, String> {
    let known = world.orders.get(order.id.as_str());
    let made = known.filter(|known| known.steps.first().is_some_and(|step| step.place == place));
    made.map(|known| known.sub).ok_or_else(|| format!("{} is not an order it placed", order.id))
}

/// The order a request moves, and where to.
fn moved(request: &Op) -> Option<(&str, Status)> {
    match request {
        Op::Pay { order } => Some((order, Status::Paid)),
        Op::Cancel { order } => Some((order, Status::Cancelled)),
        Op::Ship { order } => Some((order, Status::Shipped)),
        Op::Confirm { order } => Some((order, Status::Completed)),
        _ => None,
    }
}

/// A page holds everything from behind `after` to `next_after`, in order.
fn page_of(feed: &[FeedEvent], after: u64, page: &FeedPage) -> Verdict {
    let from = feed.partition_point(|event| event.index <= after);
    let to = feed.partition_point(|event| event.index <= page.next_after).max(from);
    let truth = feed[from..to].iter().map(|event| (event.index, event.sub));
    if page.places.iter().copied().eq(truth) {
        return Ok(());
    }
    let next = page.next_after;
    let (told, there) = (page.places.len(), to - from);
    Err(format!("{told} events are told behind {after} up to {next}, and other {there} are there"))
}
