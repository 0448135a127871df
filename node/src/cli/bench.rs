//! `agora bench …`: what can be measured, and with which load.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::Access;

/// `agora bench …`.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Place orders, one or many per request
    Orders(OrdersArgs),
    /// Place orders and pay each of them from the buyer's wallet
    Pay(PayArgs),
    /// Read orders or SKUs by id, or lists of them
    Reads(ReadsArgs),
    /// Read and order at a steady rate: 10,000 requests per second of which 90 % read, unless told otherwise
    Mixed(MixedArgs),
    /// Sell one SKU of few units to many buyers: how long until it is sold out, and that not one is sold twice
    Flash(FlashArgs),
    /// The mix of the Online Marketplace benchmark: customer sessions, dashboards, changes of products, deliveries
    Marketplace(MarketplaceArgs),
}

/// Which SKUs orders name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Distribution {
    /// 90 % of orders hit one SKU; 1,000 SKUs unless told otherwise
    Hot,
    /// All alike; 10,000 SKUs unless told otherwise
    Uniform,
    /// Zipf with exponent 0.99: the n-th most wanted SKU is wanted 1/n^0.99 as often; 10,000 SKUs unless told otherwise
    Zipf,
}

/// Which nodes the connections go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum On {
    /// All of them in turn
    All,
    /// The one that leads when the run begins
    Leader,
    /// One that does not lead when the run begins
    Follower,
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Freshness {
    /// Whatever the node has
    Local,
    /// At most two seconds old
    Bounded,
    /// All that was answered before
    Linearizable,
}

impl Freshness {
    /// As the header wants it.
    pub fn as_str(self) -> &'static str {
        match self {
            Freshness::Local => "local",
            Freshness::Bounded => "bounded",
            Freshness::Linearizable => "linearizable",
        }
    }
}

/// What is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// Orders by number
    Orders,
    /// SKUs by id
    Skus,
    /// Pages of 20 orders and pages of 20 SKUs in turn
    Lists,
}

/// The load, how it is measured, and where.
#[derive(Clone, Debug, Args)]
pub struct Load {
    /// Connections; each waits for its answer before it sends again
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub connections: usize,
    /// Open loop: so many begin per second, evenly spaced, however slow the answers are. Latency counts from the moment
    /// at which one was meant to begin, so a stall is felt by all that it delayed. Without it, closed loop: each
    /// connection begins again when it has its answer
    #[arg(long, value_name = "N")]
    pub rate: Option<f64>,
    /// Time to measure, in seconds
    #[arg(long, value_name = "S", default_value_t = 10)]
    pub seconds: u64,
    /// Time before measuring starts, in seconds [default: 2, or 0 where a number of orders is given]
    #[arg(long, value_name = "S")]
    pub warmup: Option<u64>,
    /// Which nodes the connections go to
    #[arg(long, value_enum, default_value_t = On::All)]
    pub on: On,
    /// Draw latency and throughput into a file: .svg, or .html with the figures as well
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    /// Bearer key of the shop, for a cluster that runs already [environment: AGORA_SHOP_KEY]
    #[arg(long, value_name = "KEY")]
    pub shop_key: Option<String>,
    /// How to reach a cluster that runs already; without it three nodes are started and stopped.
    #[command(flatten)]
    pub access: Access,
}

/// What there is to order.
#[derive(Clone, Debug, Args)]
pub struct Goods {
    /// Which SKUs orders name
    #[arg(long, value_enum, default_value_t = Distribution::Hot)]
    pub distribution: Distribution,
    /// Number of SKUs [default: 1,000 for hot, else 10,000]
    #[arg(long, value_name = "N")]
    pub skus: Option<usize>,
    /// Number of customers
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub accounts: usize,
    /// Most lines of an order; each has 1 to so many
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub lines: usize,
    /// Units of each SKU at the start [default: a million, and a hundred million of the hot one]
    #[arg(long, value_name = "N")]
    pub stock: Option<u64>,
}

/// `agora bench orders`.
#[derive(Clone, Debug, Args)]
pub struct OrdersArgs {
    /// Orders per request; above 1 they go to orders/batch
    #[arg(long, value_name = "K", default_value_t = 1)]
    pub batch: usize,
    /// Stop after so many orders, warm-up included
    #[arg(long, value_name = "N")]
    pub orders: Option<u64>,
    /// What there is to order.
    #[command(flatten)]
    pub goods: Goods,
    /// The load.
    #[command(flatten)]
    pub load: Load,
}

/// `agora bench pay`.
#[derive(Clone, Debug, Args)]
pub struct PayArgs {
    /// What there is to order.
    #[command(flatten)]
    pub goods: Goods,
    /// The load; `--rate` counts orders, each with its payment.
    #[command(flatten)]
    pub load: Load,
}

/// `agora bench reads`.
#[derive(Clone, Debug, Args)]
pub struct ReadsArgs {
    /// What is read
    #[arg(long, value_enum, default_value_t = What::Orders)]
    pub what: What,
    /// How fresh it must be
    #[arg(long, value_enum, default_value_t = Freshness::Local)]
    pub consistency: Freshness,
    /// Orders placed beforehand, of which are read
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub placed: usize,
    /// What there is to order.
    #[command(flatten)]
    pub goods: Goods,
    /// The load.
    #[command(flatten)]
    pub load: Load,
}

/// `agora bench mixed`.
#[derive(Clone, Debug, Args)]
pub struct MixedArgs {
    /// Requests of a hundred that read: half of them a SKU, half an order; the others place orders
    #[arg(long, value_name = "PERCENT", default_value_t = 90)]
    pub reads: u8,
    /// How fresh reads must be
    #[arg(long, value_enum, default_value_t = Freshness::Bounded)]
    pub consistency: Freshness,
    /// Closed loop in place of the rate: as fast as the answers come
    #[arg(long, conflicts_with = "rate")]
    pub closed: bool,
    /// Orders placed beforehand, of which are read
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub placed: usize,
    /// What there is to order.
    #[command(flatten)]
    pub goods: Goods,
    /// The load; `--rate` counts requests and is 10,000 if not given.
    #[command(flatten)]
    pub load: Load,
}

/// `agora bench flash`.
#[derive(Clone, Debug, Args)]
pub struct FlashArgs {
    /// Units there are of the one SKU
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub units: u64,
    /// Number of customers
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub accounts: usize,
    /// The load; a connection ends when it is told that nothing is left, the run when all have ended.
    #[command(flatten)]
    pub load: Load,
}

/// `agora bench marketplace`.
#[derive(Clone, Debug, Args)]
pub struct MarketplaceArgs {
    /// Most SKUs in a cart
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub cart: usize,
    /// Number of SKUs
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub skus: usize,
    /// Number of customers
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub accounts: usize,
    /// Which SKUs are wanted
    #[arg(long, value_enum, default_value_t = Distribution::Zipf)]
    pub distribution: Distribution,
    /// The load; `--rate` counts transactions of the mix, of which some are several requests.
    #[command(flatten)]
    pub load: Load,
}
