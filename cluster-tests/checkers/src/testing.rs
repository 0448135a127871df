//! Runs made by hand: a perfect shop, clients with bad luck, and everything they saw.
//!
//! For the tests of checkers only. What comes out of [`perfect_run`] keeps every promise, with several transactions in
//! one entry, lost requests, lost answers, retries, altered retries, refusals decided some time before their entry,
//! expiries, and stale reads. Whoever breaks it in one place must be caught.

use agora_history::{
    Answer, Basket, Call, Fault, FeedEvent, FeedPage, Level, Micros, NodeId, Op, Order, Reply, Role, Run, RunData,
    Target,
};

mod shop;

pub use shop::{Decision, Shop, hash_text, mix};

/// What to make up.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    /// Operations, about.
    pub operations: usize,
    pub clients: u32,
    pub skus: usize,
    pub accounts: usize,
    /// How long an unpaid order lives.
    pub ttl_ms: u64,
    /// One attempt in so many has bad luck.
    pub trouble: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Plan { seed: 1, operations: 800, clients: 8, skus: 4, accounts: 3, ttl_ms: 60, trouble: 6 }
    }
}

/// Time between two entries.
const TICK: Micros = 1_000;
/// Nodes of a made-up cluster.
pub const NODES: [NodeId; 3] = [1, 2, 3];

/// A run that keeps every promise.
pub fn perfect_run(plan: &Plan) -> RunData {
    World::new(plan).run()
}

/// Changes the feed of every node in the same way.
pub fn each_feed(data: &mut RunData, mut change: impl FnMut(&mut Vec<FeedEvent>)) {
    data.feeds.values_mut().for_each(&mut change);
}

/// Small numbers by chance.
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// The next one, below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0) % bound.max(1)
    }

    /// Once in so many.
    pub fn once_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let at = self.below(from.len() as u64) as usize;
        from.get(at)
    }
}

/// What a client is about.
struct Work {
    op: u64,
    attempt: u32,
    request: Op,
    key: Option<String>,
    trace: String,
    level: Option<Level>,
}

/// An attempt on its way.
struct Flight {
    work: Work,
    node: NodeId,
    invoked: Micros,
    /// Ticks until it is decided, and from then until it is answered.
    wait: u64,
    fate: Fate,
    decided: Option<(Reply, Option<u64>, bool)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Fine,
    LostOnTheWay,
    AnswerLost,
    TurnedAway,
}

enum Client {
    Idle {
        until: u64,
    },
    Busy(Box<Flight>),
    /// The last attempt did not end well: the next one comes at this tick.
    Again {
        work: Work,
        until: u64,
    },
}

/// A refusal that was decided and is not in the log yet.
struct Late {
    client: usize,
    reply: Reply,
}

struct Known {
    trace: String,
    reply: Reply,
    index: u64,
}

struct World<'a> {
    plan: &'a Plan,
    dice: Dice,
    shop: Shop,
    tick: u64,
    clients: Vec<Client>,
    late: Vec<Late>,
    /// By key.
    keys: std::collections::BTreeMap<String, Known>,
    data: RunData,
    next_op: u64,
    setup: Vec<Op>,
    skus: Vec<(String, u64)>,
    accounts: Vec<String>,
    orders: Vec<String>,
    /// Key and request of writes that were answered.
    answered: Vec<(String, Op)>,
}

fn first_wishes(plan: &Plan) -> Vec<Op> {
    let sku = |n| Op::CreateSku { code: format!("C{n}"), price: 100 + 50 * n as i64, sellable: true };
    let account = |n| Op::CreateAccount { name: format!("buyer {n}") };
    (0..plan.skus).map(sku).chain((0..plan.accounts).map(account)).collect()
}

impl<'a> World<'a> {
    fn new(plan: &'a Plan) -> World<'a> {
        let mut data = RunData { run: Run { harness: "made up".to_owned(), ..Run::default() }, ..RunData::default() };
        data.run.scenario = "perfect".to_owned();
        data.run.seed = plan.seed;
        data.run.nodes = NODES.to_vec();
        let mut setup = first_wishes(plan);
        setup.reverse();
        World {
            plan,
            dice: Dice(plan.seed),
            shop: Shop::new(plan.ttl_ms),
            tick: 0,
            clients: (0..plan.clients.max(1)).map(|_| Client::Idle { until: 0 }).collect(),
            late: Vec::new(),
            keys: std::collections::BTreeMap::new(),
            data,
            next_op: 1,
            setup,
            skus: Vec::new(),
            accounts: Vec::new(),
            orders: Vec::new(),
            answered: Vec::new(),
        }
    }

    fn run(mut self) -> RunData {
        while (self.next_op as usize) <= self.plan.operations || self.busy() {
            self.tick += 1;
            self.start();
            self.entry();
            self.finish();
        }
        // Whatever is unpaid may expire now, as it would in a quiet cluster.
        self.shop.begin_entry(1, (self.tick * TICK / 1_000) as i64);
        for order in self.shop.due() {
            self.shop.expire(&order);
        }
        let finals = self.shop.finals();
        for node in NODES {
            self.data.feeds.insert(node, self.shop.feed().to_vec());
            self.data.finals.nodes.insert(node, finals.clone());
        }
        self.data.finals.first_write_after_heal = Some(350_000);
        self.faults();
        self.data
    }

    fn busy(&self) -> bool {
        self.clients.iter().any(|client| !matches!(client, Client::Idle { .. }))
    }

    fn faults(&mut self) {
        let end = self.tick * TICK;
        for (at, kind, role) in
            [(4, "leader isolated", Role::Leader), (6, "follower isolated", Role::Follower), (8, "kill", Role::Leader)]
        {
            let target = Target { node: 1, role };
            self.data.faults.push(Fault {
                nemesis: "N1".to_owned(),
                kind: kind.to_owned(),
                from: end * at / 10,
                until: Some(end * at / 10 + 5 * TICK),
                targets: vec![target],
                in_flight: 3,
                detail: String::new(),
            });
        }
    }

    /// Clients that have nothing to do ask for something.
    fn start(&mut self) {
        for at in 0..self.clients.len() {
            match &self.clients[at] {
                Client::Idle { until } | Client::Again { until, .. } if *until <= self.tick => {}
                _ => continue,
            }
            let idle = std::mem::replace(&mut self.clients[at], Client::Idle { until: self.tick + 1 });
            let work = match idle {
                Client::Again { work, .. } => Some(work),
                _ => self.new_work(at),
            };
            let Some(work) = work else { continue };
            let trouble = self.dice.once_in(self.plan.trouble) && self.setup_done();
            let fate = match (trouble, self.dice.below(3)) {
                (false, _) => Fate::Fine,
                (true, 0) => Fate::LostOnTheWay,
                (true, 1) => Fate::AnswerLost,
                _ => Fate::TurnedAway,
            };
            let mut invoked = self.tick * TICK + self.dice.below(TICK / 3);
            let mut decided = None;
            if matches!(work.level, Some(Level::Local | Level::Bounded)) && fate == Fate::Fine {
                // A stale read sees what was there a while before it was asked.
                decided = self.read(&work.request).map(|reply| (reply, Some(self.shop.index()), false));
                invoked += 2 * TICK;
            }
            let wait = if decided.is_some() { 3 } else { self.dice.below(3) };
            let node = NODES[self.dice.below(3) as usize];
            self.clients[at] = Client::Busy(Box::new(Flight { work, node, invoked, wait, fate, decided }));
        }
    }

    fn setup_done(&self) -> bool {
        self.skus.len() >= self.plan.skus && self.accounts.len() >= self.plan.accounts
    }

    fn new_work(&mut self, client: usize) -> Option<Work> {
        let request = match self.setup.is_empty() {
            false if client == 0 => self.setup.pop(),
            false => None,
            true if !self.setup_done() || (self.next_op as usize) > self.plan.operations => None,
            true if self.dice.once_in(25) && !self.answered.is_empty() => return self.altered(),
            true => self.wish(),
        }?;
        let op = self.next_op;
        self.next_op += 1;
        let key = request.is_write().then(|| format!("key-{op}"));
        let levels = [Level::Linearizable, Level::Linearizable, Level::Leader, Level::Bounded, Level::Local];
        let level = (!request.is_write()).then(|| levels[self.dice.below(5) as usize]);
        Some(Work { op, attempt: 0, request, key, trace: format!("{op:032x}"), level })
    }

    /// The key of an answered write, with another body.
    fn altered(&mut self) -> Option<Work> {
        let (key, request) = self.dice.pick(&self.answered)?.clone();
        let request = match request {
            Op::Place(mut basket) => {
                basket.items[0].1 += 1;
                Op::Place(basket)
            }
            Op::AdjustWallet { account, amount } => Op::AdjustWallet { account, amount: amount + 1 },
            _ => return None,
        };
        let op = self.next_op;
        self.next_op += 1;
        Some(Work { op, attempt: 0, request, key: Some(key), trace: format!("{op:032x}"), level: None })
    }

    fn basket(&mut self) -> Option<Basket> {
        let account = self.dice.pick(&self.accounts)?.clone();
        let mut items = Vec::new();
        for _ in 0..=self.dice.below(3) {
            let quantity = 1 + self.dice.below(4) as u32;
            items.push((self.dice.pick(&self.skus)?.0.clone(), quantity));
        }
        Some(Basket { account, items, hold: self.dice.once_in(2) })
    }

    fn wish(&mut self) -> Option<Op> {
        let (sku, version) = self.dice.pick(&self.skus)?.clone();
        let account = self.dice.pick(&self.accounts)?.clone();
        let recent = self.orders.len().saturating_sub(20);
        let order = self.dice.pick(&self.orders[recent..]).cloned();
        let amount = 1 + self.dice.below(3_000) as i64;
        Some(match self.dice.below(33) {
            0 | 1 => Op::Receive { lines: vec![(sku.clone(), 20), (self.dice.pick(&self.skus)?.0.clone(), 5)] },
            2 => Op::AdjustStock { sku, delta: if self.dice.once_in(2) { 3 } else { -2 } },
            3 => Op::ChangeSku { sku, expected_version: version, price: Some(90 + amount % 200), sellable: None },
            4 => Op::ChangeSku { sku, expected_version: version, price: None, sellable: Some(amount % 4 != 0) },
            5 => Op::ChangeSku { sku, expected_version: version.max(2) - 1, price: Some(7), sellable: Some(true) },
            6 => Op::CreateSku { code: format!("C{}", amount % 9), price: amount, sellable: true },
            7..9 => Op::AdjustWallet { account, amount: 2 * amount },
            9 => Op::AdjustWallet { account, amount: -amount },
            10..17 => Op::Place(self.basket()?),
            17 => Op::PlaceBatch(vec![self.basket()?, self.basket()?, self.basket()?]),
            18..25 => self.step(order?),
            25 => Op::ReadSku { sku },
            26..28 => Op::ReadStock { sku },
            28 => Op::ReadOrder { order: order? },
            29 => Op::ReadWallet { account },
            30 => Op::ReadLedger,
            31 => Op::ReadFeed { after: self.dice.below(self.shop.index()), limit: 20 },
            _ => {
                let placed = |(key, op): &(String, Op)| matches!(op, Op::Place(_)).then(|| key.clone());
                Op::ReadKey { key: self.answered.iter().rev().find_map(placed)? }
            }
        })
    }

    /// Usually the next step of an order's life, sometimes any.
    fn step(&mut self, order: String) -> Op {
        let now = match self.shop.read(&Op::ReadOrder { order: order.clone() }) {
            Some(Answer::Order(now)) => now.status,
            _ => String::new(),
        };
        match (now.as_str(), self.dice.below(8)) {
            (_, 0 | 1) => Op::Cancel { order },
            ("CREATED", 2..7) | (_, 2) => Op::Pay { order },
            ("PAID", 3..7) | (_, 3) => Op::Ship { order },
            _ => Op::Confirm { order },
        }
    }

    /// One or two entries with everything that arrives now.
    fn entry(&mut self) {
        let skip = 1 + u64::from(self.dice.once_in(10));
        let index = self.shop.begin_entry(skip, (self.tick * TICK / 1_000) as i64);
        for late in std::mem::take(&mut self.late) {
            self.settle(late.client, late.reply, index);
        }
        let mut arrived: Vec<usize> = Vec::new();
        for (at, client) in self.clients.iter_mut().enumerate() {
            let Client::Busy(flight) = client else { continue };
            if flight.wait > 0 {
                flight.wait -= 1;
            } else if flight.decided.is_none() {
                arrived.push(at);
            }
        }
        for at in (1..arrived.len()).rev() {
            arrived.swap(at, self.dice.below(at as u64 + 1) as usize);
        }
        // A read sees whole entries, so it comes behind all writes.
        let is_read = |at: &usize| matches!(&self.clients[*at], Client::Busy(flight) if flight.work.key.is_none());
        let (reads, arrived): (Vec<usize>, Vec<usize>) = arrived.into_iter().partition(is_read);
        let half = arrived.len() / 2;
        for (place, at) in arrived.into_iter().enumerate() {
            if place == half && self.dice.once_in(2) {
                self.shop.begin_entry(1, (self.tick * TICK / 1_000) as i64);
            }
            self.decide(at);
        }
        for order in self.shop.due() {
            self.shop.expire(&order);
        }
        for at in reads {
            self.decide(at);
        }
    }

    /// An answer, with its place in the log.
    fn settle(&mut self, at: usize, reply: Reply, index: u64) {
        let Client::Busy(flight) = &mut self.clients[at] else { return };
        if let Some(key) = &flight.work.key {
            let known = Known { trace: flight.work.trace.clone(), reply: reply.clone(), index };
            self.keys.insert(key.clone(), known);
        }
        flight.decided = Some((reply, Some(index), false));
    }

    fn decide(&mut self, at: usize) {
        let Client::Busy(flight) = &mut self.clients[at] else { return };
        match flight.fate {
            Fate::LostOnTheWay => {
                flight.decided = Some((unknown("no answer"), None, false));
                return;
            }
            Fate::TurnedAway => {
                let reply = Reply::NotDone { status: 503, code: "NO_LEADER".to_owned() };
                flight.decided = Some((reply, None, false));
                return;
            }
            Fate::Fine | Fate::AnswerLost => {}
        }
        let (request, trace) = (flight.work.request.clone(), flight.work.trace.clone());
        if !request.is_write() {
            let reply = self.read(&request);
            let reply = reply.unwrap_or_else(|| Reply::NotDone { status: 404, code: "NOT_FOUND".to_owned() });
            let index = matches!(reply, Reply::Yes { .. }).then(|| self.shop.index());
            if let Client::Busy(flight) = &mut self.clients[at] {
                flight.decided = Some((reply, index, false));
            }
            return;
        }
        let key = flight.work.key.clone().unwrap_or_default();
        if let Some(known) = self.keys.get(&key) {
            flight.decided = Some(if known.trace == trace {
                (known.reply.clone(), Some(known.index), true)
            } else {
                (Reply::NotDone { status: 422, code: "IDEMPOTENCY_KEY_REUSED".to_owned() }, None, false)
            });
            return;
        }
        let status = match &request {
            Op::CreateSku { .. } | Op::CreateAccount { .. } | Op::Place(_) => 201,
            _ => 200,
        };
        let reply = match self.shop.write(&request, &trace) {
            Decision::Yes(answer) => Reply::Yes { status, answer },
            Decision::Refused(refusal) => {
                let status = if refusal.code == "VERSION_MISMATCH" { 412 } else { 409 };
                let reply = Reply::Refused { status, refusal };
                if self.dice.once_in(3) {
                    self.late.push(Late { client: at, reply });
                    return;
                }
                reply
            }
        };
        let index = self.shop.index();
        self.settle(at, reply, index);
    }

    fn read(&self, request: &Op) -> Option<Reply> {
        let answer = match request {
            Op::ReadFeed { after, limit } => Answer::Feed(self.page(*after, *limit)),
            Op::ReadKey { key } => match &self.keys.get(key)?.reply {
                Reply::Yes { answer: Answer::Order(Order { id, .. }), .. } => {
                    self.shop.read(&Op::ReadOrder { order: id.clone() })?
                }
                _ => return None,
            },
            other => self.shop.read(other)?,
        };
        Some(Reply::Yes { status: 200, answer })
    }

    fn page(&self, after: u64, limit: u32) -> FeedPage {
        let feed = self.shop.feed();
        let head_index = self.shop.index();
        let from = feed.partition_point(|event| event.index <= after);
        let mut places: Vec<(u64, u32)> = Vec::new();
        for event in &feed[from..] {
            if places.len() >= limit as usize && places.last().is_some_and(|last| last.0 != event.index) {
                break;
            }
            places.push((event.index, event.sub));
        }
        let next_after = match places.last() {
            Some(last) if places.len() >= limit as usize => last.0,
            _ => head_index,
        };
        FeedPage { places, head_index, next_after }
    }

    /// What was decided is answered, and recorded.
    fn finish(&mut self) {
        for at in 0..self.clients.len() {
            let done =
                matches!(&self.clients[at], Client::Busy(flight) if flight.decided.is_some() && flight.wait == 0);
            if !done {
                continue;
            }
            let idle = Client::Idle { until: self.tick + 1 + self.dice.below(3) };
            let Client::Busy(flight) = std::mem::replace(&mut self.clients[at], idle) else { continue };
            self.answer(at, *flight);
        }
    }

    fn answer(&mut self, at: usize, mut flight: Flight) {
        let Some((mut reply, mut index, mut replayed)) = flight.decided.take() else { return };
        if flight.fate == Fate::AnswerLost {
            (reply, index, replayed) = (unknown("no answer"), None, false);
        }
        let returned = (self.tick * TICK + 2 * TICK / 3 + self.dice.below(TICK / 3)).max(flight.invoked + 1);
        let body_hash = match &reply {
            Reply::Yes { answer, .. } => Some(fingerprint(&format!("{answer:?} {index:?}"))),
            Reply::Refused { refusal, .. } => Some(fingerprint(&format!("{refusal:?} {index:?}"))),
            _ => None,
        };
        self.learn(&flight.work, &reply);
        let work = flight.work;
        let stale = matches!(work.level, Some(Level::Bounded | Level::Local)) && index.is_some();
        self.data.calls.push(Call {
            op: work.op,
            attempt: work.attempt,
            client: at as u32,
            node: flight.node,
            invoked: flight.invoked,
            returned,
            key: work.key.clone(),
            trace: work.trace.clone(),
            level: work.level,
            min_index: None,
            request: work.request.clone(),
            reply: reply.clone(),
            index,
            staleness_ms: stale.then_some(5),
            replayed,
            body_hash,
        });
        // A careful client tries again, but not for ever; one who was turned away gives up now and then.
        let again = matches!(reply, Reply::Unknown { .. } | Reply::NotDone { status: 503, .. });
        if again && work.attempt < 3 && !self.dice.once_in(4) {
            let until = self.tick + 1 + self.dice.below(4);
            self.clients[at] = Client::Again { work: Work { attempt: work.attempt + 1, ..work }, until };
        }
    }

    fn learn(&mut self, work: &Work, reply: &Reply) {
        let Reply::Yes { answer, .. } = reply else { return };
        match answer {
            Answer::Sku(sku) => match self.skus.iter_mut().find(|(id, _)| *id == sku.id) {
                Some((_, version)) => *version = sku.version.max(*version),
                None => self.skus.push((sku.id.clone(), sku.version)),
            },
            Answer::Account(account) if !self.accounts.contains(&account.id) => {
                self.accounts.push(account.id.clone());
            }
            Answer::Order(order) if work.request.is_write() && order.version == 1 => {
                self.orders.push(order.id.clone());
            }
            _ => {}
        }
        if let (Some(key), true) = (&work.key, work.request.is_write()) {
            self.answered.push((key.clone(), work.request.clone()));
        }
    }
}

fn unknown(why: &str) -> Reply {
    Reply::Unknown { status: None, why: why.to_owned() }
}

fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
