//! Every answer that says no, and the only file that knows status codes.
//!
//! Handlers speak in [`Problem`]s; they become HTTP at the very last step, here. A problem is `application/problem+json`
//! (RFC 9457) with Agora's `code`, `message` and `details` beside it. Three kinds, and no fourth:
//!
//! - the request is wrong (400, 401, 403, 413, 415, 422, 428): nothing was asked of the shop, nothing is kept;
//! - the wish cannot be granted (404, 409, 412 from a decision): kept under the idempotency key and repeated byte for
//!   byte. Such a body must be the same on every node and at every time, so its `trace_id` is that of the request that
//!   was decided first; the one of the request at hand is in the header `X-Trace-Id`;
//! - the machine could not, or cannot tell (5xx): always with `applied`, which is `false` or `"unknown"`.

use std::{borrow::Cow, time::Duration};

use agora_actors::{ReadError, WriteError};
use agora_domain::{
    Rejection, SkuId,
    rejection::{InvalidCoupon, Shortage},
};
use http::StatusCode;
use serde::{Serialize, Serializer, ser::SerializeSeq};

use crate::{
    language::Language,
    views::{MoneyView, SkuView, Text, Trace, Transitions},
};

/// Field errors listed in one answer; more are not looked for.
pub const FIELD_ERRORS_MAX: usize = 50;

/// How a request went well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Success {
    /// Here it is.
    Ok,
    /// It exists now.
    Created,
    /// The caller has it already.
    NotModified,
}

impl Success {
    /// As HTTP says it.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Ok => StatusCode::OK,
            Self::Created => StatusCode::CREATED,
            Self::NotModified => StatusCode::NOT_MODIFIED,
        }
    }
}

/// What went wrong, as programs read it. Never translated, never renamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// A field, parameter or header has a value it may not have.
    ValidationFailed,
    /// A query parameter nobody reads.
    UnknownParameter,
    /// A JSON field nobody reads.
    UnknownField,
    /// No JSON.
    MalformedJson,
    /// A write without a key.
    IdempotencyKeyMissing,
    /// A key of a wrong form, or two keys.
    IdempotencyKeyInvalid,
    /// No bearer key, or an unknown one.
    Unauthenticated,
    /// A known key that is not for this.
    Forbidden,
    /// No such thing, or no such path.
    NotFound,
    /// The path exists, the method does not.
    MethodNotAllowed,
    /// The body did not arrive in time.
    RequestTimeout,
    /// The body is beyond the limit.
    PayloadTooLarge,
    /// The path and query are beyond the limit.
    UriTooLong,
    /// The body is no JSON by its own account.
    UnsupportedMedia,
    /// Not enough stock.
    InventoryShortage,
    /// Not on sale.
    SkuNotSellable,
    /// No such coupon.
    CouponInvalid,
    /// Not from this status.
    InvalidTransition,
    /// The first request with this key still runs.
    IdempotencyInFlight,
    /// The SKU code is taken.
    DuplicateExternalId,
    /// Not enough money.
    InsufficientBalance,
    /// Two currencies where one is needed.
    CurrencyMismatch,
    /// A figure would be beyond what one row may hold.
    LimitExceeded,
    /// The cluster could not commit without that member.
    WouldLoseQuorum,
    /// A node id is used once.
    NodeIdReused,
    /// One change of membership at a time.
    ConfigChangeInProgress,
    /// The page's time is over.
    CursorExpired,
    /// The feed does not go back that far.
    FeedTruncated,
    /// Someone changed it since.
    VersionMismatch,
    /// The key belongs to another request.
    IdempotencyKeyReused,
    /// `If-Match` is needed here.
    PreconditionRequired,
    /// A bug, or a broken disk.
    Internal,
    /// A majority does not answer.
    NoQuorum,
    /// Nobody leads at this moment.
    NoLeader,
    /// Too much at once, or shutting down.
    Overloaded,
    /// This node's rows are too old.
    StaleRead,
    /// The node has not caught up.
    Syncing,
    /// Not confirmed in time: it may have happened.
    OutcomeUnknown,
}

impl Code {
    /// Every code, for the documentation and the tests.
    pub const ALL: [Self; 38] = [
        Self::ValidationFailed,
        Self::UnknownParameter,
        Self::UnknownField,
        Self::MalformedJson,
        Self::IdempotencyKeyMissing,
        Self::IdempotencyKeyInvalid,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::PayloadTooLarge,
        Self::UriTooLong,
        Self::UnsupportedMedia,
        Self::InventoryShortage,
        Self::SkuNotSellable,
        Self::CouponInvalid,
        Self::InvalidTransition,
        Self::IdempotencyInFlight,
        Self::DuplicateExternalId,
        Self::InsufficientBalance,
        Self::CurrencyMismatch,
        Self::LimitExceeded,
        Self::WouldLoseQuorum,
        Self::NodeIdReused,
        Self::ConfigChangeInProgress,
        Self::CursorExpired,
        Self::FeedTruncated,
        Self::VersionMismatch,
        Self::IdempotencyKeyReused,
        Self::PreconditionRequired,
        Self::Internal,
        Self::NoQuorum,
        Self::NoLeader,
        Self::Overloaded,
        Self::StaleRead,
        Self::Syncing,
        Self::OutcomeUnknown,
    ];

    /// Status, code, title for people, message in Chinese.
    fn row(self) -> (u16, &'static str, &'static str, &'static str) {
        match self {
            Self::ValidationFailed => (400, "VALIDATION_FAILED", "The request is not valid", "请求参数无效"),
            Self::UnknownParameter => (400, "UNKNOWN_PARAMETER", "Unknown query parameter", "未知的查询参数"),
            Self::UnknownField => (400, "UNKNOWN_FIELD", "Unknown field", "未知字段"),
            Self::MalformedJson => (400, "MALFORMED_JSON", "The body is not JSON", "请求体不是有效的 JSON"),
            Self::IdempotencyKeyMissing => (400, "IDEMPOTENCY_KEY_MISSING", "Idempotency-Key is missing", "缺少幂等键"),
            Self::IdempotencyKeyInvalid => {
                (400, "IDEMPOTENCY_KEY_INVALID", "Idempotency-Key is not valid", "幂等键无效")
            }
            Self::Unauthenticated => (401, "UNAUTHENTICATED", "A valid bearer key is needed", "未认证"),
            Self::Forbidden => (403, "FORBIDDEN", "This key is not for this", "无权访问"),
            Self::NotFound => (404, "NOT_FOUND", "No such thing", "未找到"),
            Self::MethodNotAllowed => (405, "METHOD_NOT_ALLOWED", "Method not allowed", "不支持的请求方法"),
            Self::RequestTimeout => (408, "REQUEST_TIMEOUT", "The body did not arrive in time", "请求超时"),
            Self::PayloadTooLarge => (413, "PAYLOAD_TOO_LARGE", "The body is too large", "请求体过大"),
            Self::UriTooLong => (414, "URI_TOO_LONG", "The path and query are too long", "请求地址过长"),
            Self::UnsupportedMedia => (415, "UNSUPPORTED_MEDIA", "Only application/json", "仅支持 application/json"),
            Self::InventoryShortage => (409, "INVENTORY_SHORTAGE", "Not enough stock", "库存不足"),
            Self::SkuNotSellable => (409, "SKU_NOT_SELLABLE", "Not on sale", "商品不可售"),
            Self::CouponInvalid => (409, "COUPON_INVALID", "Coupon cannot be used", "优惠券无效"),
            Self::InvalidTransition => (409, "INVALID_TRANSITION", "Not from this status", "当前状态不允许此操作"),
            Self::IdempotencyInFlight => {
                (409, "IDEMPOTENCY_IN_FLIGHT", "The first request with this key still runs", "相同幂等键的请求正在处理")
            }
            Self::DuplicateExternalId => (409, "DUPLICATE_EXTERNAL_ID", "This code is taken", "编码已存在"),
            Self::InsufficientBalance => (409, "INSUFFICIENT_BALANCE", "Not enough money", "余额不足"),
            Self::CurrencyMismatch => (409, "CURRENCY_MISMATCH", "Currencies differ", "币种不一致"),
            Self::LimitExceeded => (409, "LIMIT_EXCEEDED", "Beyond a limit", "超出上限"),
            Self::WouldLoseQuorum => {
                (409, "WOULD_LOSE_QUORUM", "The cluster would lose its quorum", "集群将失去多数派")
            }
            Self::NodeIdReused => (409, "NODE_ID_REUSED", "This node id was used before", "节点编号已被使用"),
            Self::ConfigChangeInProgress => {
                (409, "CONFIG_CHANGE_IN_PROGRESS", "Another change of membership runs", "成员变更正在进行")
            }
            Self::CursorExpired => (410, "CURSOR_EXPIRED", "The cursor is too old", "分页游标已过期"),
            Self::FeedTruncated => (410, "FEED_TRUNCATED", "The feed does not go back that far", "变更记录已被截断"),
            Self::VersionMismatch => (412, "VERSION_MISMATCH", "It was changed since", "版本不一致"),
            Self::IdempotencyKeyReused => {
                (422, "IDEMPOTENCY_KEY_REUSED", "The key belongs to another request", "幂等键已用于其他请求")
            }
            Self::PreconditionRequired => (428, "PRECONDITION_REQUIRED", "If-Match is needed", "缺少 If-Match"),
            Self::Internal => (500, "INTERNAL", "Something is broken here", "内部错误"),
            Self::NoQuorum => (503, "NO_QUORUM", "A majority of nodes does not answer", "多数节点不可用"),
            Self::NoLeader => (503, "NO_LEADER", "Nobody leads at this moment", "暂无主节点"),
            Self::Overloaded => (503, "OVERLOADED", "Too much at once", "系统繁忙"),
            Self::StaleRead => (503, "STALE_READ", "This node cannot read fresh enough", "数据不够新"),
            Self::Syncing => (503, "SYNCING", "The node is still catching up", "节点正在同步"),
            Self::OutcomeUnknown => (504, "OUTCOME_UNKNOWN", "Not confirmed in time", "结果未知，请用同一幂等键重试"),
        }
    }

    /// As HTTP says it.
    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.row().0).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// As programs read it.
    pub fn as_str(self) -> &'static str {
        self.row().1
    }

    /// Short, English.
    pub fn title(self) -> &'static str {
        self.row().2
    }

    /// For the person in front of the screen.
    pub fn message(self, language: Language) -> &'static str {
        match language {
            Language::Chinese => self.row().3,
            Language::English => self.row().2,
        }
    }

    /// Whether the same request may go well later without anyone changing it.
    pub fn retryable(self) -> bool {
        matches!(
            self,
            Self::IdempotencyInFlight
                | Self::ConfigChangeInProgress
                | Self::RequestTimeout
                | Self::Internal
                | Self::NoQuorum
                | Self::NoLeader
                | Self::Overloaded
                | Self::StaleRead
                | Self::Syncing
                | Self::OutcomeUnknown
        )
    }
}

/// Whether the request had an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Definitely not.
    No,
    /// It may have, or may yet.
    Unknown,
}

impl Serialize for Applied {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::No => serializer.serialize_bool(false),
            Self::Unknown => serializer.serialize_str("unknown"),
        }
    }
}

/// One thing that is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// JSON pointer into the body; empty for the body as a whole, and for headers and parameters.
    pub pointer: String,
    /// The query parameter or path part, where it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameter: Option<Cow<'static, str>>,
    /// The header, where it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<&'static str>,
    /// UPPER_SNAKE.
    pub code: &'static str,
    /// What is wrong and what would be right.
    pub message: String,
}

impl FieldError {
    /// In the body.
    pub fn body(pointer: impl Into<String>, code: &'static str, message: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), parameter: None, header: None, code, message: message.into() }
    }

    /// In the query string.
    pub fn parameter(parameter: impl Into<Cow<'static, str>>, code: &'static str, message: impl Into<String>) -> Self {
        let parameter = Some(parameter.into());
        Self { pointer: String::new(), parameter, header: None, code, message: message.into() }
    }

    /// In a header.
    pub fn header(header: &'static str, code: &'static str, message: impl Into<String>) -> Self {
        Self { pointer: String::new(), parameter: None, header: Some(header), code, message: message.into() }
    }
}

/// What a problem tells beyond its code. Every variant is written as its fields alone.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Details {
    /// Short SKUs and bad coupons, all of them.
    Shortage {
        /// `[{sku_id, requested, available, location_id: null}]`
        #[serde(serialize_with = "write_shortages")]
        shortages: Vec<Shortage>,
        /// `[{code, reason}]`
        #[serde(serialize_with = "write_coupons")]
        invalid_coupons: Vec<InvalidCoupon>,
    },
    /// Bad coupons, all of them.
    Coupons {
        /// `[{code, reason}]`
        #[serde(serialize_with = "write_coupons")]
        invalid_coupons: Vec<InvalidCoupon>,
    },
    /// SKUs by id.
    Skus {
        /// `["sku_…"]`
        #[serde(serialize_with = "write_ids")]
        sku_ids: Vec<SkuId>,
    },
    /// Something else by id.
    Id {
        /// `account`, `order` …
        kind: &'static str,
        /// As given or as found.
        id: String,
    },
    /// A status that leads elsewhere.
    Transition {
        /// Which order.
        order_no: String,
        /// Where it is.
        status: &'static str,
        /// Where it was to go.
        requested: &'static str,
        /// Where it may go.
        allowed_transitions: Transitions,
    },
    /// Someone changed it since.
    Version {
        /// What the caller saw.
        expected_version: u64,
        /// What is there.
        current_version: u64,
        /// All of it.
        current: SkuView,
    },
    /// A taken code.
    Duplicate {
        /// Which code.
        sku_code: String,
        /// Whose.
        existing_id: String,
    },
    /// Two amounts that do not go together.
    Amounts {
        /// Asked for.
        requested: MoneyView,
        /// There.
        available: MoneyView,
    },
    /// Two currencies.
    Currencies {
        /// One amount.
        left: MoneyView,
        /// The other.
        right: MoneyView,
    },
    /// A limit.
    Limit {
        /// Of what.
        what: String,
        /// How much.
        limit: u64,
    },
    /// Where the feed begins.
    Feed {
        /// The smallest `after` that is answered.
        oldest_after: u64,
        /// Where it ends.
        head_index: u64,
        /// How to go on.
        hint: &'static str,
    },
    /// Why a node is not ready.
    Reasons {
        /// Each in a few words.
        reasons: Vec<String>,
    },
    /// How far this node is.
    Progress {
        /// Index of its rows.
        #[serde(skip_serializing_if = "Option::is_none")]
        applied_index: Option<u64>,
        /// Age of its rows.
        #[serde(skip_serializing_if = "Option::is_none")]
        staleness_ms: Option<u64>,
    },
}

fn write_shortages<S: Serializer>(shortages: &[Shortage], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct View {
        sku_id: Text<SkuId>,
        requested: u64,
        available: u64,
        /// Stock is not kept by location; the field is there so that clients need not change when it is.
        location_id: Option<&'static str>,
    }
    let mut list = serializer.serialize_seq(Some(shortages.len()))?;
    for short in shortages {
        list.serialize_element(&View {
            sku_id: Text(short.sku),
            requested: short.requested,
            available: short.available,
            location_id: None,
        })?;
    }
    list.end()
}

fn write_coupons<S: Serializer>(coupons: &[InvalidCoupon], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct View<'a> {
        code: &'a str,
        reason: &'a str,
    }
    serializer.collect_seq(coupons.iter().map(|coupon| View { code: &coupon.code, reason: &coupon.reason }))
}

fn write_ids<S: Serializer>(ids: &[SkuId], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(ids.iter().map(|id| Text(*id)))
}

/// A no.
#[derive(Clone, Debug)]
pub struct Problem {
    /// What.
    pub code: Code,
    /// This case of it, lower case, with values.
    pub detail: Cow<'static, str>,
    /// More of this case.
    pub details: Option<Box<Details>>,
    /// For 400: everything that is wrong.
    pub errors: Vec<FieldError>,
    /// Whether the request had an effect.
    pub applied: Applied,
    /// Log index of the entry that holds this refusal; `Some` means that it is kept under the key, so that its body
    /// may hold nothing that differs between nodes or times.
    pub log_index: Option<u64>,
    /// Trace id of the request that was decided, for a refusal that is kept.
    pub decided_trace: Option<u128>,
    /// The refusal was found under the key.
    pub replayed: bool,
    /// When to come back.
    pub retry_after: Option<Duration>,
    /// For 405: the methods that exist.
    pub allow: Option<String>,
    /// For 412: the current version.
    pub etag: Option<u64>,
}

/// Problems travel in a box: they are large and rare.
pub type Outcome<T> = Result<T, Box<Problem>>;

impl Problem {
    /// A problem with a sentence.
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Box<Self> {
        Box::new(Self {
            code,
            detail: detail.into(),
            details: None,
            errors: Vec::new(),
            applied: Applied::No,
            log_index: None,
            decided_trace: None,
            replayed: false,
            retry_after: None,
            allow: None,
            etag: None,
        })
    }

    /// Adds details.
    pub fn with(mut self: Box<Self>, details: Details) -> Box<Self> {
        self.details = Some(Box::new(details));
        self
    }

    /// Says when to come back.
    pub fn after(mut self: Box<Self>, delay: Duration) -> Box<Self> {
        self.retry_after = Some(delay);
        self
    }

    /// 400 with one cause.
    pub fn invalid(error: FieldError) -> Box<Self> {
        Self::invalid_all(vec![error])
    }

    /// 400 with all causes; there is at least one.
    pub fn invalid_all(errors: Vec<FieldError>) -> Box<Self> {
        Self::of_errors(Code::ValidationFailed, errors)
    }

    /// Another 400 with its causes; the first one's message is the detail.
    pub fn of_errors(code: Code, errors: Vec<FieldError>) -> Box<Self> {
        let detail = match errors.as_slice() {
            [] => String::from("the request is not valid"),
            [only] => only.message.clone(),
            [first, rest @ ..] => format!("{} (and {} more)", first.message, rest.len()),
        };
        let mut problem = Self::new(code, detail);
        problem.errors = errors;
        problem
    }

    /// 404 for one thing by id.
    pub fn not_found(kind: &'static str, id: impl Into<String>) -> Box<Self> {
        let id = id.into();
        Self::new(Code::NotFound, format!("no {kind} {id}")).with(Details::Id { kind, id })
    }

    /// A decision's refusal, held by the entry at `index`, asked for first under `trace`.
    pub fn rejected(rejection: &Rejection, index: u64, trace: u128, replayed: bool) -> Box<Self> {
        let mut problem = Self::from(rejection);
        problem.log_index = Some(index);
        problem.decided_trace = Some(trace);
        problem.replayed = replayed;
        Box::new(problem)
    }

    /// A broken disk under a read.
    pub fn storage(error: impl std::fmt::Display) -> Box<Self> {
        Self::new(Code::Internal, format!("storage: {error}"))
    }

    /// The body, in bytes. `trace` is the request's own; a kept refusal shows the one it was decided under.
    pub fn body(&self, instance: &str, trace: u128, language: Language) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(512);
        // Writing into a vector fails only for maps with odd keys, and there are none.
        serde_json::to_writer(&mut bytes, &self.view(instance, trace, language))
            .expect("a problem is made of text, numbers and lists");
        bytes
    }

    /// The body, to be written inside another.
    pub fn view<'a>(&'a self, instance: &'a str, trace: u128, language: Language) -> ProblemView<'a> {
        ProblemView {
            kind: TypeUri(self.code),
            title: self.code.title(),
            status: self.code.status().as_u16(),
            detail: &self.detail,
            instance,
            code: self.code.as_str(),
            message: self.code.message(language),
            details: self.details.as_deref(),
            errors: &self.errors,
            trace_id: Text(Trace(self.decided_trace.unwrap_or(trace))),
            log_index: self.log_index,
            applied: self.applied,
            retryable: self.code.retryable(),
        }
    }
}

struct TypeUri(Code);

impl Serialize for TypeUri {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("https://agora.dev/errors/{}", self.0.as_str()))
    }
}

/// A problem as it is written.
#[derive(Serialize)]
pub struct ProblemView<'a> {
    #[serde(rename = "type")]
    kind: TypeUri,
    title: &'static str,
    status: u16,
    detail: &'a str,
    instance: &'a str,
    code: &'static str,
    message: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<&'a Details>,
    #[serde(skip_serializing_if = "<[FieldError]>::is_empty")]
    errors: &'a [FieldError],
    trace_id: Text<Trace>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log_index: Option<u64>,
    applied: Applied,
    retryable: bool,
}

impl From<&Rejection> for Problem {
    /// The whole mapping from decisions to codes. Only 404, 409 and 412 come out: they are the ones that are kept.
    fn from(rejection: &Rejection) -> Self {
        let detail = rejection.to_string();
        let (code, details) = match rejection {
            Rejection::AccountNotFound(id) => (Code::NotFound, Details::Id { kind: "account", id: id.to_string() }),
            Rejection::OrderNotFound(id) => (Code::NotFound, Details::Id { kind: "order", id: id.to_string() }),
            Rejection::SkusNotFound(ids) => (Code::NotFound, Details::Skus { sku_ids: ids.clone() }),
            Rejection::NotSellable(ids) => (Code::SkuNotSellable, Details::Skus { sku_ids: ids.clone() }),
            Rejection::Shortage { shortages, invalid_coupons } => (
                Code::InventoryShortage,
                Details::Shortage { shortages: shortages.clone(), invalid_coupons: invalid_coupons.clone() },
            ),
            Rejection::CouponsInvalid(coupons) => {
                (Code::CouponInvalid, Details::Coupons { invalid_coupons: coupons.clone() })
            }
            Rejection::CurrencyMismatch { left, right } => (
                Code::CurrencyMismatch,
                Details::Currencies { left: MoneyView::from(*left), right: MoneyView::from(*right) },
            ),
            Rejection::LimitExceeded { what, limit } => {
                (Code::LimitExceeded, Details::Limit { what: what.clone(), limit: *limit })
            }
            Rejection::InsufficientBalance { requested, available } => (
                Code::InsufficientBalance,
                Details::Amounts { requested: MoneyView::from(*requested), available: MoneyView::from(*available) },
            ),
            Rejection::InvalidTransition { order, from, to } => (
                Code::InvalidTransition,
                Details::Transition {
                    order_no: order.number(),
                    status: from.as_str(),
                    requested: to.as_str(),
                    allowed_transitions: Transitions(*from),
                },
            ),
            Rejection::VersionMismatch { expected, current } => (
                Code::VersionMismatch,
                Details::Version {
                    expected_version: *expected,
                    current_version: current.version,
                    current: SkuView::new(current, current.index),
                },
            ),
            Rejection::CodeTaken { code, owner } => (
                Code::DuplicateExternalId,
                Details::Duplicate { sku_code: code.clone(), existing_id: owner.to_string() },
            ),
        };
        let mut problem = Self::new(code, detail).with(details);
        if let Rejection::VersionMismatch { current, .. } = rejection {
            problem.etag = Some(current.version);
        }
        *problem
    }
}

const SOON: Duration = Duration::from_secs(1);

impl From<WriteError> for Box<Problem> {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::NoLeader => {
                Problem::new(Code::NoLeader, "no leader at this moment: nothing was done, repeat the request")
                    .after(SOON)
            }
            WriteError::NoQuorum => Problem::new(
                Code::NoQuorum,
                "a majority of the nodes does not answer: nothing was done, repeat the request",
            )
            .after(SOON),
            WriteError::Overloaded { retry_after_ms } => {
                Problem::new(Code::Overloaded, "too many requests at once: nothing was done, repeat the request")
                    .after(Duration::from_millis(retry_after_ms))
            }
            WriteError::ShuttingDown => {
                Problem::new(Code::Overloaded, "this node is shutting down: nothing was done, ask another node")
                    .after(SOON)
            }
            WriteError::KeyReused => Problem::new(
                Code::IdempotencyKeyReused,
                "this idempotency key was used for another request: use a new key for a new request",
            ),
            WriteError::KeyInFlight => Problem::new(
                Code::IdempotencyInFlight,
                "the first request with this key is still running: repeat the request for its answer",
            )
            .after(SOON),
            WriteError::Unknown => {
                let mut problem = Problem::new(
                    Code::OutcomeUnknown,
                    "not confirmed in time: repeat the request with the same key, on any node, to learn the outcome",
                )
                .after(SOON);
                problem.applied = Applied::Unknown;
                problem
            }
            WriteError::Internal(reason) => {
                Problem::new(Code::Internal, format!("refused at apply, nothing was done: {reason}"))
            }
        }
    }
}

impl From<ReadError> for Box<Problem> {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NoLeader => {
                Problem::new(Code::NoLeader, "no leader at this moment: repeat, or read with consistency local")
                    .after(SOON)
            }
            ReadError::NoQuorum => Problem::new(
                Code::NoQuorum,
                "a majority of the nodes does not answer: repeat, or read with consistency local",
            )
            .after(SOON),
            ReadError::Stale { have_ms } => Problem::new(
                Code::StaleRead,
                "this node's rows are older than the bound: ask another node or allow more",
            )
            .with(Details::Progress { applied_index: None, staleness_ms: have_ms })
            .after(SOON),
            ReadError::MinIndexNotReached { applied } => {
                Problem::new(Code::StaleRead, "this node has not reached the index yet: repeat, or ask another node")
                    .with(Details::Progress { applied_index: Some(applied), staleness_ms: None })
                    .after(SOON)
            }
            ReadError::Syncing { applied, needed } => Problem::new(
                Code::Syncing,
                format!(
                    "this node is making its rows again: applied is {applied}, needed is {needed}; ask another node"
                ),
            )
            .after(SOON),
            ReadError::Timeout => {
                Problem::new(Code::StaleRead, "the read was not confirmed in time: repeat, or ask another node")
                    .after(SOON)
            }
            ReadError::Storage(reason) => Problem::storage(reason),
        }
    }
}
