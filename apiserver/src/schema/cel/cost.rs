//! What an expression may cost at the most, reckoned before it is evaluated: of values no more is known than the bounds that
//! their schemas set.
//!
//! It is reckoned as Kubernetes does, and where that cannot be told, too low rather than too high: what is taken there is to be
//! taken here, and what an evaluation really costs is bounded by its [`Meter`](super::Meter).

use super::{
    Scope, Val,
    eval::{Expr, Loop, LoopKind},
    operators::Operator,
    shape::{Kind, Shape},
};
use crate::schema::Node;
use serde_json::Value;

/// The largest request that Kubernetes takes: no value is larger.
const REQUEST: u64 = (3 << 20) - 2;
/// What it costs to make a list, and to make a map.
const MADE: (u64, u64) = (10, 30);

/// What is known of a value.
#[derive(Clone)]
struct Known<'n> {
    shape: Shape<'n>,
    /// How many bytes or items it has at the most.
    size: Option<u64>,
    /// What its items are, if its schema does not say.
    item: Option<Box<Known<'n>>>,
}

impl<'n> Known<'n> {
    const NOTHING: Self = Self { shape: Shape::Any, size: None, item: None };

    fn of(shape: Shape<'n>) -> Self {
        let size = match shape {
            Shape::Node(node) => most(node),
            _ => None,
        };
        Self { shape, size, item: None }
    }

    fn sized(size: Option<u64>) -> Self {
        Self { size, ..Self::NOTHING }
    }

    fn item(&self) -> Self {
        self.item.as_deref().cloned().unwrap_or_else(|| Self::of(self.shape.item()))
    }

    /// What it costs to go through it.
    fn walk(&self) -> u64 {
        self.size.unwrap_or(1)
    }

    /// What it costs to go through it if it is a text.
    fn read(&self) -> u64 {
        self.walk().div_ceil(10)
    }
}

/// How many bytes or items a value of this schema has at the most.
fn most(node: &Node) -> Option<u64> {
    match node.shape().kind() {
        Some(Kind::List) => node.count.1.or_else(|| Some(REQUEST / (least(node.items.as_deref()?) + 1))),
        Some(Kind::Map) => node.fields.1.or_else(|| Some(REQUEST / (least(node.additional.as_deref()?) + 6))),
        Some(Kind::Text) if node.enum_.is_empty() => Some(node.length.1.map_or(REQUEST, |length| length.saturating_mul(4))),
        Some(Kind::Text) => node.enum_.iter().filter_map(Value::as_str).map(|text| text.len() as u64).max(),
        _ => None,
    }
}

/// How many bytes a value of this schema has at the least.
fn least(node: &Node) -> u64 {
    match node.type_.as_str() {
        "integer" | "number" => 1,
        "boolean" => 4,
        "object" => {
            let required = node.required.iter().filter_map(|name| Some((name, node.properties.get(name)?)));
            let required = required.filter(|(_, property)| property.default.is_none());
            required.fold(2, |sum, (name, property)| sum + name.len() as u64 + 4 + least(property))
        }
        _ if node.int_or_string => 1,
        _ => 2,
    }
}

/// How many values of this schema there are in an object at the most, of which a list or map may have so many, if there is a
/// bound on that.
pub fn times(node: &Node, bound: Option<u64>) -> u64 {
    bound.unwrap_or_else(|| REQUEST / (least(node) + 1))
}

/// What an expression costs at the most.
pub fn estimate(expr: &Expr, scope: Scope<'_>) -> u64 {
    let this = if scope.whole { Shape::Whole(scope.node) } else { scope.node.shape() };
    let old = if scope.optional_old { Known::NOTHING } else { Known::of(this) };
    Estimate { vars: vec![Known::of(this), old] }.value(expr).0
}

struct Estimate<'n> {
    vars: Vec<Known<'n>>,
}

impl<'n> Estimate<'n> {
    fn all<'e>(&mut self, exprs: impl IntoIterator<Item = &'e Expr>) -> u64 {
        exprs.into_iter().fold(0, |sum: u64, expr| sum.saturating_add(self.value(expr).0))
    }

    fn value(&mut self, expr: &Expr) -> (u64, Known<'n>) {
        match expr {
            Expr::Const(Val::Text(text)) => (0, Known::sized(Some(text.len() as u64))),
            Expr::Const(Val::Pattern(pattern)) => (0, Known::sized(Some(pattern.as_str().len() as u64))),
            Expr::Const(_) => (0, Known::NOTHING),
            Expr::Var(place) => (1, self.vars.get(*place).cloned().unwrap_or(Known::NOTHING)),
            Expr::Select { of, field } | Expr::OptionalSelect { of, field } => {
                let (cost, of) = self.value(of);
                (cost.saturating_add(1), Known::of(of.shape.field(field).unwrap_or(Shape::Any)))
            }
            Expr::Has { .. } => (0, Known::NOTHING),
            Expr::Not(of) | Expr::Negate(of) => (self.value(of).0.saturating_add(1), Known::NOTHING),
            Expr::Index { of, at, .. } => {
                let (cost, of) = self.value(of);
                (cost.saturating_add(self.value(at).0).saturating_add(1), of.item())
            }
            Expr::And(operands) | Expr::Or(operands) => (self.all(operands), Known::NOTHING),
            Expr::If(parts) => {
                let [condition, then, otherwise] = &**parts;
                let ((condition, _), (then, one), (otherwise, other)) = (self.value(condition), self.value(then), self.value(otherwise));
                let size = one.size.zip(other.size).map(|(one, other)| one.max(other));
                (condition.saturating_add(then.max(otherwise)), Known::sized(size))
            }
            Expr::Binary(operator, operands) => {
                let [left, right] = &**operands;
                let ((cost, left), (more, right)) = (self.value(left), self.value(right));
                let (own, made) = binary(*operator, left, right);
                (cost.saturating_add(more).saturating_add(own), made)
            }
            Expr::List(items) => {
                let cost = self.all(items.iter().map(|(item, _)| item));
                (cost.saturating_add(MADE.0), Known::sized(Some(items.len() as u64)))
            }
            Expr::Map(entries) => {
                let cost = self.all(entries.iter().flat_map(|(key, value, _)| [key, value]));
                (cost.saturating_add(MADE.1), Known::sized(Some(entries.len() as u64)))
            }
            Expr::Loop(of) => self.round(of),
            Expr::OptionalMap { of, body, .. } => {
                let cost = self.value(of).0;
                let (body, _) = self.within([Known::NOTHING], |within| within.value(body));
                (cost.saturating_add(body).saturating_add(1), Known::NOTHING)
            }
            Expr::Call { function, args } => {
                let (costs, args): (Vec<u64>, Vec<Known<'n>>) = args.iter().map(|arg| self.value(arg)).unzip();
                let (own, made) = call(function.name, &args);
                (costs.into_iter().fold(own, u64::saturating_add), made)
            }
        }
    }

    fn round(&mut self, of: &Loop) -> (u64, Known<'n>) {
        let (cost, range) = self.value(&of.range);
        let item = match range.shape.kind() {
            Some(Kind::Map) if !of.pairs => Known::of(range.shape.key()),
            _ => range.item(),
        };
        let mut vars = vec![item];
        if of.pairs {
            vars.insert(0, Known::of(range.shape.key()));
        }
        let (filter, (body, made)) = self.within(vars, |within| {
            let filter = of.filter.as_ref().map_or(0, |filter| within.value(filter).0);
            (filter, within.value(&of.body))
        });
        // What the loop itself does for an item, and what comes of it.
        let (own, made) = match of.kind {
            LoopKind::All => (3, Known::NOTHING),
            LoopKind::Exists => (4, Known::NOTHING),
            LoopKind::ExistsOne => (2, Known::NOTHING),
            LoopKind::Filter => (MADE.0 + 2, Known { size: range.size, ..range.clone() }),
            LoopKind::Map => (MADE.0 + 2, Known { shape: Shape::Any, size: range.size, item: Some(Box::new(made)) }),
            LoopKind::MapValues | LoopKind::MapEntries | LoopKind::SortBy => (1, Known::sized(range.size)),
        };
        let each = filter.saturating_add(body).saturating_add(own);
        (cost.saturating_add(range.walk().saturating_mul(each)).saturating_add(1), made)
    }

    /// With further variables.
    fn within<T>(&mut self, vars: impl IntoIterator<Item = Known<'n>>, reckon: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.vars.len();
        self.vars.extend(vars);
        let reckoned = reckon(self);
        self.vars.truncate(before);
        reckoned
    }
}

fn binary<'n>(operator: Operator, left: Known<'n>, right: Known<'n>) -> (u64, Known<'n>) {
    match operator {
        Operator::In => (if right.shape.kind() == Some(Kind::Map) { 1 } else { right.walk() }, Known::NOTHING),
        Operator::Add => match left.size.zip(right.size) {
            Some((one, other)) => {
                let size = one.saturating_add(other);
                let is_text = left.shape.kind() == Some(Kind::Text) || right.shape.kind() == Some(Kind::Text);
                let item = left.item.or(right.item);
                (if is_text { size.div_ceil(10) } else { 1 }, Known { shape: left.shape, size: Some(size), item })
            }
            None => (1, Known::NOTHING),
        },
        operator if operator.compares() => {
            let scalars = if operator.orders() { 1 } else { 0 };
            (left.size.zip(right.size).map_or(scalars, |(one, other)| one.min(other).div_ceil(10)), Known::NOTHING)
        }
        _ => (1, Known::NOTHING),
    }
}

/// What a function does with its arguments, and what it makes of them.
fn call<'n>(name: &str, args: &[Known<'n>]) -> (u64, Known<'n>) {
    let [this, rest @ ..] = args else { return (1, Known::NOTHING) };
    let first = rest.first();
    match name {
        "contains" => (this.read().saturating_mul(first.map_or(1, Known::read)), Known::NOTHING),
        "matches" => {
            let pattern = first.map_or(1, |pattern| pattern.walk().div_ceil(4));
            (this.walk().saturating_add(1).div_ceil(10).saturating_mul(pattern), Known::NOTHING)
        }
        "startsWith" | "endsWith" => (first.map_or(1, Known::read), Known::NOTHING),
        "lowerAscii" | "upperAscii" | "trim" | "substring" | "replace" => (this.read(), Known::sized(this.size)),
        "split" => (this.read(), Known { shape: Shape::Any, size: this.size, item: Some(Box::new(Known::sized(this.size))) }),
        "find" | "findAll" | "url" | "isURL" | "quantity" | "isQuantity" | "semver" | "isSemver" | "ip" | "isIP" | "cidr" | "isCIDR" => {
            (this.read(), Known::NOTHING)
        }
        "isSorted" | "sum" | "min" | "max" => (this.walk(), Known::NOTHING),
        "sets.contains" | "sets.equivalent" | "sets.intersects" => {
            (this.walk().saturating_mul(first.map_or(1, Known::walk)), Known::NOTHING)
        }
        _ => (1, Known::NOTHING),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::cel::{Gives, Program};
    use serde_json::json;

    fn cost(schema: Value, rule: &str) -> u64 {
        let node = Node::compile(&schema, "").unwrap();
        Program::compile(rule, Scope { node: &node, whole: false, optional_old: false }, Gives::Bool).unwrap().cost()
    }

    /// The numbers are those of Kubernetes (`TestCostEstimation` in apiextensions-apiserver).
    #[test]
    fn expressions_cost_what_they_cost_in_kubernetes() {
        let list = |items: &str| json!({ "type": "array", "items": { "type": items } });
        let map = |values: &str| json!({ "type": "object", "additionalProperties": { "type": values } });
        let bounded = |mut schema: Value, bound: &str, most: u64| {
            schema[bound] = most.into();
            schema
        };
        let text = json!({ "type": "string" });
        let object = json!({ "type": "object", "required": ["required"], "properties": { "required": text, "optional": text } });
        for (schema, rule, wanted) in [
            (list("number"), "self.all(x, true)", 4_718_591),
            (list("number"), "self.all(x, x == 0.0)", 6_291_454),
            (list("string"), "self.all(x, true)", 3_145_727),
            (list("boolean"), "self.all(x, true)", 1_887_437),
            (json!({ "type": "array", "items": list("number") }), "self.all(x, true)", 3_145_727),
            (json!({ "type": "array", "items": object }), "self.all(x, true)", 555_128),
            (map("number"), "self.all(x, true)", 1_348_169),
            (map("string"), "self.all(x, true)", 1_179_647),
            (map("boolean"), "has(self.x)", 0),
            (list("string"), "self[1] == self[1]", 314_577),
            (list("number"), "self[1] == 0.0", 2),
            (text.clone(), "self.contains('test')", 314_574),
            (text.clone(), "self.startsWith('test')", 2),
            (text.clone(), "self.matches('x')", 314_574),
            (text.clone(), "self == 'x'", 2),
            (text.clone(), "size(self + 'hello') > size('hello')", 314_578),
            (bounded(text.clone(), "maxLength", 10), "self.contains('test')", 5),
            (bounded(text.clone(), "maxLength", 50), "self.matches('x')", 22),
            (bounded(map("string"), "maxProperties", 3), "self.all(x, true)", 11),
            (bounded(list("number"), "maxItems", 10), "self.all(x, self.all(y, true))", 352),
            (bounded(list("number"), "maxItems", 10), "self.all(x, self.all(y, self.all(z, true)))", 3_552),
        ] {
            assert_eq!(cost(schema.clone(), rule), wanted, "{rule} of {schema}");
        }
        assert_eq!(cost(list("number"), "self.all(x, self.all(y, self.all(z, self.all(w, true))))"), u64::MAX);
    }

    #[test]
    fn what_loops_make_is_as_long_as_what_they_go_through() {
        let list = json!({ "type": "array", "maxItems": 10, "items": { "type": "string", "maxLength": 5 } });
        let plain = cost(list.clone(), "self.all(x, x.contains('a'))");
        // 20 bytes to read for each of 10.
        assert_eq!(plain, 2 + 10 * (3 + 1 + 2));
        let filtered = cost(list.clone(), "self.filter(y, true).all(x, x.contains('a'))");
        assert_eq!(filtered, plain + 1 + 10 * 12);
        let mapped = cost(list, "self.map(y, y + 'abcde').all(x, x.contains('a'))");
        assert_eq!(mapped, 2 + 10 * (12 + 1 + 3) + 1 + 10 * (3 + 1 + 3));
    }
}
