//! Expressions in the Common Expression Language, as the rules of a schema are written in it, with the functions that
//! Kubernetes adds to it.
//!
//! The `cel` crate parses; evaluation is ours, because an expression comes from outside and so does what it is evaluated on.
//! Every step is paid for out of a [`Meter`], the depth of an expression is bounded when it is compiled, and nothing panics.
//! `docs/decisions/` says more.

mod compile;
mod cost;
mod eval;
mod functions;
mod operators;
mod shape;
mod value;

#[cfg(test)]
mod tests;

pub use cost::times;
pub use value::Val;

use crate::schema::Node;
use eval::Expr;

/// What an evaluation may cost, in steps: Kubernetes's own bound on a call.
const CALL_BUDGET: u64 = 1_000_000;
/// What all evaluations of a request may cost.
const OBJECT_BUDGET: u64 = 10_000_000;
/// How long the text of an expression may be.
const MAX_TEXT: usize = 16 << 10;
/// How deep an expression may be, in operations within operations. Evaluation is as deep as the expression.
const MAX_DEPTH: usize = 100;
/// The parser, and what frees its tree, is as deep as the text is nested or, for chains of operators, long.
const PARSER_STACK: usize = 64 << 20;

/// An expression, ready to be evaluated.
#[derive(Debug)]
pub struct Program {
    expr: Expr,
    uses_old: bool,
    cost: u64,
}

/// What an expression must give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gives {
    /// Whether the value is as it should be.
    Bool,
    /// What to say.
    Text,
}

/// What an expression is about.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'n> {
    /// The schema of `self` and `oldSelf`.
    pub node: &'n Node,
    /// `self` is an object with apiVersion, kind and metadata.
    pub whole: bool,
    /// `oldSelf` may be absent and is asked whether it is there.
    pub optional_old: bool,
}

/// An evaluation came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It cost too much.
    #[error("call cost exceeds limit")]
    Call,
    /// It and those before it cost too much.
    #[error("validation failed due to running out of cost budget")]
    Budget,
    /// It went wrong.
    #[error("{0}")]
    Wrong(String),
}

type Outcome<'a> = Result<Val<'a>, Failure>;

impl Failure {
    fn wrong(what: impl Into<String>) -> Self {
        Self::Wrong(what.into())
    }

    /// An operator or function does not go with these.
    fn overload(function: &str, args: &[Val<'_>]) -> Self {
        let types: Vec<_> = args.iter().map(Val::type_name).collect();
        Self::Wrong(format!("no such overload: {function}({})", types.join(", ")))
    }

    /// It stays a failure whatever an operand beside it is.
    fn is_final(&self) -> bool {
        !matches!(self, Self::Wrong(_))
    }
}

/// What evaluations have left to spend.
#[derive(Debug)]
pub struct Meter {
    call: u64,
    object: u64,
}

impl Meter {
    /// For all rules on one object.
    pub fn new() -> Self {
        Self { call: 0, object: OBJECT_BUDGET }
    }

    fn begin_call(&mut self) {
        self.call = CALL_BUDGET;
    }

    fn charge(&mut self, cost: u64) -> Result<(), Failure> {
        self.call = self.call.checked_sub(cost).ok_or(Failure::Call)?;
        self.object = self.object.checked_sub(cost).ok_or(Failure::Budget)?;
        Ok(())
    }
}

impl Program {
    /// Compiles an expression; says what is wrong with it.
    pub fn compile(text: &str, scope: Scope<'_>, gives: Gives) -> Result<Self, String> {
        if text.len() > MAX_TEXT {
            return Err(format!("it is longer than {MAX_TEXT} bytes"));
        }
        // On a stack of its own, and where a fault of the parser ends nothing else.
        let compiled = std::thread::scope(|threads| {
            let thread = std::thread::Builder::new().name("cel".into()).stack_size(PARSER_STACK);
            match thread.spawn_scoped(threads, || compile::compile(text, scope, gives)) {
                Ok(thread) => thread.join().unwrap_or_else(|_| Err("the parser failed on it".into())),
                Err(error) => Err(format!("no thread could be started to read it: {error}")),
            }
        });
        let (expr, uses_old) = compiled?;
        let cost = cost::estimate(&expr, scope);
        Ok(Self { expr, uses_old, cost })
    }

    /// What an evaluation costs at the most, as Kubernetes reckons it.
    pub fn cost(&self) -> u64 {
        self.cost
    }

    /// It compares with the value that was there.
    pub fn uses_old(&self) -> bool {
        self.uses_old
    }

    /// Evaluates it.
    pub fn run<'a>(&self, new: Val<'a>, old: Val<'a>, meter: &mut Meter) -> Outcome<'a> {
        meter.begin_call();
        eval::Run::new(vec![new, old], meter).value(&self.expr)
    }
}
