//! Addresses, from the range set aside for measuring networks (RFC 2544): they exist inside the namespaces only.

use std::net::Ipv4Addr;

use agora_history::NodeId;

/// The clients' machine.
pub const CLIENTS: NodeId = 0;
/// Largest node id an address can be made of.
pub const NODE_ID_MAX: NodeId = 65_000;
/// Bits of the network.
pub const PREFIX: u8 = 16;

const CLIENTS_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 255, 254);

/// Address of a machine.
///
/// # Panics
/// Beyond [`NODE_ID_MAX`].
pub fn of(machine: NodeId) -> Ipv4Addr {
    assert!(machine <= NODE_ID_MAX, "node {machine}: ids go to {NODE_ID_MAX} here");
    if machine == CLIENTS {
        return CLIENTS_ADDRESS;
    }
    Ipv4Addr::new(198, 18, (machine >> 8) as u8, (machine & 0xff) as u8)
}

/// The machine with an address.
pub fn machine(address: Ipv4Addr) -> Option<NodeId> {
    if address == CLIENTS_ADDRESS {
        return Some(CLIENTS);
    }
    match address.octets() {
        [198, 18, high, low] => {
            let id = NodeId::from(high) << 8 | NodeId::from(low);
            (1..=NODE_ID_MAX).contains(&id).then_some(id)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_machine_has_an_address_of_its_own() {
        for id in [CLIENTS, 1, 5, 255, 256, NODE_ID_MAX] {
            assert_eq!(machine(of(id)), Some(id));
        }
        assert_eq!(of(3), Ipv4Addr::new(198, 18, 0, 3));
        assert_eq!(machine(Ipv4Addr::new(127, 0, 0, 1)), None);
        assert_eq!(machine(Ipv4Addr::new(198, 18, 255, 255)), None);
    }
}
