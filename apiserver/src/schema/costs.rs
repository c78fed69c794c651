//! What the rules of a schema may cost at the most. One that could cost too much is refused with its definition, in Kubernetes's
//! words, so that it is not found out by the one object that is large enough.

use super::{Node, cel::times};
use crate::error::{Cause, CauseReason};

/// What a rule may cost on one object.
const RULE: u64 = 10_000_000;
/// What all rules of a schema may.
const ALL: u64 = 100_000_000;

/// The rules of a schema at `path` that may cost too much.
pub(super) fn check(root: &Node, path: &str) -> Vec<Cause> {
    let mut costs = Costs { causes: Vec::new(), all: 0 };
    costs.node(root, path, Some(1));
    if costs.all > ALL {
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        costs.refuse(path.to_owned(), what, costs.all, ALL);
    }
    costs.causes
}

struct Costs {
    causes: Vec<Cause>,
    all: u64,
}

impl Costs {
    /// `bound` is how many values of the schema there may be, if that is bounded.
    fn node(&mut self, node: &Node, path: &str, bound: Option<u64>) {
        if !node.has_rules {
            return;
        }
        for (index, rule) in node.rules.iter().enumerate() {
            let (cost, message_cost) = rule.costs();
            let cost = cost.saturating_mul(times(node, bound));
            let at = format!("{path}.x-kubernetes-validations[{index}]");
            if cost > RULE {
                self.refuse(format!("{at}.rule"), "estimated rule cost", cost, RULE);
            }
            if message_cost > RULE {
                self.refuse(format!("{at}.messageExpression"), "estimated messageExpression cost", message_cost, RULE);
            }
            self.all = self.all.saturating_add(cost).saturating_add(message_cost);
        }
        let below = |most: Option<u64>| Some(bound?.saturating_mul(most?));
        for (name, property) in &node.properties {
            self.node(property, &format!("{path}.properties[{name}]"), bound);
        }
        if let Some(items) = &node.items {
            self.node(items, &format!("{path}.items"), below(node.count.1));
        }
        if let Some(additional) = &node.additional {
            self.node(additional, &format!("{path}.additionalProperties"), below(node.fields.1));
        }
    }

    fn refuse(&mut self, field: String, what: &str, cost: u64, most: u64) {
        // Costs are far below 2^53 where the digits count.
        let factor = match cost as f64 / most as f64 {
            factor if factor > 100.0 => "more than 100x".to_owned(),
            factor if factor < 1.5 => format!("{factor:.6}x"),
            factor => format!("{factor:.1}x"),
        };
        let why = "try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared";
        let message = format!("Forbidden: {what} exceeds budget by factor of {factor} ({why})");
        self.causes.push(Cause { reason: CauseReason::FieldValueForbidden, message, field });
    }
}
