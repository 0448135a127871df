//! Two bearer keys: one for the shop, one for cluster administration. Nothing but health probes is open.
//!
//! Keys are compared as keyed hashes in constant time, so that neither their bytes nor their length can be learnt from
//! how long a refusal takes. A key that is known but not for this is 403; no key or an unknown one is 401. The
//! administrator's key does not open the shop: who keeps the cluster running need not read its orders.

use agora_domain::KeyRef;
use http::{HeaderMap, header::AUTHORIZATION};

use crate::problem::{Code, Outcome, Problem};

/// Who may use an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anyone: health probes.
    Open,
    /// The shop's key.
    Shop,
    /// The administrator's key.
    Admin,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Principal {
    /// Nobody in particular.
    Anyone,
    /// Holder of the shop's key.
    Shop,
    /// Holder of the administrator's key.
    Admin,
}

impl Principal {
    /// The same on every node and across changes of keys: it is part of what an idempotency key is kept under.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Anyone => "anyone",
            Self::Shop => "shop",
            Self::Admin => "admin",
        }
    }
}

/// The hashes of both keys.
pub struct Keys {
    salt: [u8; 32],
    shop: blake3::Hash,
    admin: blake3::Hash,
}

impl Keys {
    /// Remembers hashes of the keys, not the keys.
    pub fn new(shop: &str, admin: &str) -> Self {
        let mut both = blake3::Hasher::new_derive_key("agora-api 2026 bearer keys");
        both.update(&(shop.len() as u64).to_le_bytes()).update(shop.as_bytes()).update(admin.as_bytes());
        let salt = *both.finalize().as_bytes();
        Self {
            shop: blake3::keyed_hash(&salt, shop.as_bytes()),
            admin: blake3::keyed_hash(&salt, admin.as_bytes()),
            salt,
        }
    }

    /// Who asks, if he may.
    ///
    /// # Errors
    /// 401 without a known key, 403 with the other one.
    pub fn admit(&self, access: Access, headers: &HeaderMap) -> Outcome<Principal> {
        if access == Access::Open {
            return Ok(Principal::Anyone);
        }
        let principal = self.who(headers)?;
        match (access, principal) {
            (Access::Shop, Principal::Shop) | (Access::Admin, Principal::Admin) => Ok(principal),
            (Access::Shop, _) => Err(Problem::new(Code::Forbidden, "this needs the shop key")),
            (Access::Admin, _) => Err(Problem::new(Code::Forbidden, "this needs the administrator's key")),
            (Access::Open, _) => Ok(principal),
        }
    }

    /// Who asks.
    ///
    /// # Errors
    /// 401 without a known key.
    pub fn who(&self, headers: &HeaderMap) -> Outcome<Principal> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(unauthenticated("send the header `authorization: bearer <key>` once"));
        };
        let bytes = value.as_bytes();
        let is_bearer = bytes.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer "));
        if !is_bearer {
            return Err(unauthenticated("the authorization header is not of the form `bearer <key>`"));
        }
        let given = blake3::keyed_hash(&self.salt, bytes[7..].trim_ascii());
        // Both comparisons are made, each in constant time (the equality of `blake3::Hash` is).
        let (is_shop, is_admin) = (given == self.shop, given == self.admin);
        match (is_shop, is_admin) {
            (true, _) => Ok(Principal::Shop),
            (_, true) => Ok(Principal::Admin),
            _ => Err(unauthenticated("the bearer key is not known here")),
        }
    }
}

fn unauthenticated(detail: &'static str) -> Box<Problem> {
    Problem::new(Code::Unauthenticated, detail)
}

/// What an idempotency key is kept under: principal, method, route template and key, truncated to 128 bits.
pub fn key_hash(principal: Principal, method: &str, route: &str, key: &str) -> u128 {
    let mut hasher = blake3::Hasher::new_derive_key("agora-api 2026 idempotency key");
    for part in [principal.as_str(), method, route, key] {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
    }
    truncated(&hasher)
}

/// What a request was, so that another one under the same key is told apart. `command` holds path parameters and
/// `If-Match` as well as the body.
pub fn fingerprint(command: &agora_domain::Command) -> u128 {
    let mut hasher = blake3::Hasher::new_derive_key("agora-api 2026 request fingerprint");
    // Serialising a command into a vector cannot fail: it has no maps and no readers behind it.
    let bytes = serde_json::to_vec(command).expect("a command has no map with keys that are not text");
    hasher.update(&bytes);
    truncated(&hasher)
}

/// Key and fingerprint of a write.
pub fn key_ref(principal: Principal, method: &str, route: &str, key: &str, command: &agora_domain::Command) -> KeyRef {
    KeyRef { hash: key_hash(principal, method, route, key), fingerprint: fingerprint(command) }
}

fn truncated(hasher: &blake3::Hasher) -> u128 {
    let hash = hasher.finalize();
    let mut bytes = [0u8; 16];
    bytes.copy_from_slice(&hash.as_bytes()[..16]);
    u128::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use agora_domain::{AccountId, Command, PlaceOrder, SkuId, Uid};

    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, http::HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn only_the_two_keys_are_known() {
        let keys = Keys::new("shop-key", "admin-key");
        for (values, expected) in [
            (&["Bearer shop-key"][..], Ok(Principal::Shop)),
            (&["bearer  admin-key "], Ok(Principal::Admin)),
            (&[], Err(Code::Unauthenticated)),
            (&["shop-key"], Err(Code::Unauthenticated)),
            (&["Bearer"], Err(Code::Unauthenticated)),
            (&["Bearer "], Err(Code::Unauthenticated)),
            (&["Bearer shop-ke"], Err(Code::Unauthenticated)),
            (&["Bearer shop-keys"], Err(Code::Unauthenticated)),
            (&["Basic shop-key"], Err(Code::Unauthenticated)),
            (&["Bearer shop-key", "Bearer admin-key"], Err(Code::Unauthenticated)),
            (&["Bearer 密钥"], Err(Code::Unauthenticated)),
        ] {
            let got = keys.who(&headers(values)).map_err(|problem| problem.code);
            assert_eq!(got, expected, "{values:?}");
        }
    }

    #[test]
    fn each_key_opens_its_own_doors_only() {
        let keys = Keys::new("shop-key", "admin-key");
        let admit = |access, key| keys.admit(access, &headers(&[key])).map_err(|problem| problem.code);
        assert_eq!(admit(Access::Shop, "Bearer shop-key"), Ok(Principal::Shop));
        assert_eq!(admit(Access::Shop, "Bearer admin-key"), Err(Code::Forbidden));
        assert_eq!(admit(Access::Admin, "Bearer admin-key"), Ok(Principal::Admin));
        assert_eq!(admit(Access::Admin, "Bearer shop-key"), Err(Code::Forbidden));
        assert_eq!(admit(Access::Open, "Bearer nonsense"), Ok(Principal::Anyone));
    }

    #[test]
    fn a_key_is_kept_by_principal_method_route_and_key() {
        let base = key_hash(Principal::Shop, "POST", "/a", "k");
        assert_eq!(base, key_hash(Principal::Shop, "POST", "/a", "k"));
        for other in [
            key_hash(Principal::Admin, "POST", "/a", "k"),
            key_hash(Principal::Shop, "PATCH", "/a", "k"),
            key_hash(Principal::Shop, "POST", "/ak", ""),
            key_hash(Principal::Shop, "POST", "/a", "l"),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn a_fingerprint_tells_requests_apart_and_never_changes() {
        let order = |quantity| {
            Command::PlaceOrder(PlaceOrder {
                account: AccountId(Uid(1)),
                items: vec![(SkuId(Uid(2)), quantity)],
                coupon_codes: Vec::new(),
                hold_balance: false,
                note: String::new(),
            })
        };
        assert_ne!(fingerprint(&order(1)), fingerprint(&order(2)));
        // Nodes of two releases must agree on it: a change here refuses honest retries during an upgrade.
        assert_eq!(format!("{:032x}", fingerprint(&order(1))), "13457ed3bd38a81bf3088a6a59503e0d");
    }
}
