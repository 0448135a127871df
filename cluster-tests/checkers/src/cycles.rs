//! Directed graphs: strongly connected components (Tarjan, without recursion), and the shortest circle through a node.

use std::collections::{HashMap, HashSet, VecDeque};

/// Edges in the making.
#[derive(Debug)]
pub struct Graph<Why> {
    edges: Vec<(u32, u32, Why)>,
}

impl<Why> Default for Graph<Why> {
    fn default() -> Self {
        Graph { edges: Vec::new() }
    }
}

impl<Why: Copy> Graph<Why> {
    /// One comes before another.
    pub fn edge(&mut self, from: u32, to: u32, why: Why) {
        self.edges.push((from, to, why));
    }

    /// Number of edges.
    pub fn edges(&self) -> usize {
        self.edges.len()
    }

    /// Edges by where they begin.
    pub fn ready(mut self, nodes: usize) -> Ready<Why> {
        self.edges.sort_by_key(|(from, ..)| *from);
        let mut first = vec![0; nodes + 1];
        for (from, ..) in &self.edges {
            first[*from as usize + 1] += 1;
        }
        for at in 0..nodes {
            first[at + 1] += first[at];
        }
        Ready { first, edges: self.edges.into_iter().map(|(_, to, why)| (to, why)).collect() }
    }
}

/// A graph to walk in.
#[derive(Debug)]
pub struct Ready<Why> {
    first: Vec<usize>,
    edges: Vec<(u32, Why)>,
}

impl<Why: Copy> Ready<Why> {
    fn out(&self, node: u32) -> &[(u32, Why)] {
        &self.edges[self.first[node as usize]..self.first[node as usize + 1]]
    }

    /// The shortest circle through `start` that stays inside: each node with the reason why the next comes behind it.
    pub fn circle(&self, start: u32, inside: &HashSet<u32>) -> Option<VecDeque<(u32, Why)>> {
        let mut from: HashMap<u32, (u32, Why)> = HashMap::new();
        let mut queue = VecDeque::from([start]);
        while let Some(node) = queue.pop_front() {
            for (to, why) in self.out(node) {
                if *to == start {
                    let mut circle = VecDeque::from([(node, *why)]);
                    let mut at = node;
                    while at != start {
                        let (before, why) = from[&at];
                        circle.push_front((before, why));
                        at = before;
                    }
                    return Some(circle);
                }
                if inside.contains(to) && !from.contains_key(to) {
                    from.insert(*to, (node, *why));
                    queue.push_back(*to);
                }
            }
        }
        None
    }
}

const UNSEEN: u32 = u32::MAX;

/// Components of more than one node.
pub fn components<Why: Copy>(graph: &Ready<Why>) -> Vec<Vec<u32>> {
    let nodes = graph.first.len() - 1;
    let mut number = vec![UNSEEN; nodes];
    let mut low = vec![0; nodes];
    let mut on_stack = vec![false; nodes];
    let (mut stack, mut path, mut found) = (Vec::new(), Vec::<(u32, usize)>::new(), Vec::new());
    let mut next = 0;
    for root in 0..nodes as u32 {
        if number[root as usize] != UNSEEN {
            continue;
        }
        path.push((root, 0));
        while let Some((node, edge)) = path.last().copied() {
            let at = node as usize;
            if edge == 0 && number[at] == UNSEEN {
                (number[at], low[at], on_stack[at]) = (next, next, true);
                next += 1;
                stack.push(node);
            }
            match graph.out(node).get(edge) {
                Some((to, _)) => {
                    if let Some(top) = path.last_mut() {
                        top.1 += 1;
                    }
                    let to = *to as usize;
                    if number[to] == UNSEEN {
                        path.push((to as u32, 0));
                    } else if on_stack[to] {
                        low[at] = low[at].min(number[to]);
                    }
                }
                None => {
                    path.pop();
                    if let Some((above, _)) = path.last() {
                        let above = *above as usize;
                        low[above] = low[above].min(low[at]);
                    }
                    if low[at] == number[at] {
                        let mut component = Vec::new();
                        while let Some(member) = stack.pop() {
                            on_stack[member as usize] = false;
                            component.push(member);
                            if member == node {
                                break;
                            }
                        }
                        if component.len() > 1 {
                            component.sort_unstable();
                            found.push(component);
                        }
                    }
                }
            }
        }
    }
    found
}
