//! From the text of an expression to its compiled form: names become places, calls become functions, macros become loops, and
//! what could never be evaluated is refused.

use super::{
    Gives, MAX_DEPTH, Scope, Val,
    eval::{Expr, Field, Loop, LoopKind},
    functions,
    operators::Operator,
    shape::{Kind, Shape},
};
use cel::{
    Env,
    common::ast::{CallExpr, EntryExpr, Expr as Ast, IdedExpr, LiteralValue, operators},
};

/// The compiled form, and whether it reads `oldSelf`.
pub fn compile(text: &str, scope: Scope<'_>, gives: Gives) -> Result<(Expr, bool), String> {
    let tree = Env::default().parser().parse(text).map_err(|errors| match errors.errors.first() {
        Some(error) => format!("{}:{}: {}", error.pos.0, error.pos.1, error.msg),
        None => "it cannot be read".to_owned(),
    })?;
    let this = if scope.whole { Shape::Whole(scope.node) } else { scope.node.shape() };
    let old = if scope.optional_old { Shape::Any } else { this };
    let mut compiler = Compiler { names: vec![("self".into(), this), ("oldSelf".into(), old)], uses_old: false, depth: 0 };
    let (expr, shape) = compiler.expr(&tree)?;
    let wanted = if gives == Gives::Bool { Kind::Bool } else { Kind::Text };
    match shape.kind() {
        Some(kind) if kind != wanted => Err(format!("it must evaluate to a {} and not to a {}", wanted.name(), kind.name())),
        _ => Ok((expr, compiler.uses_old)),
    }
}

struct Compiler<'n> {
    /// The variables by place, the innermost last.
    names: Vec<(String, Shape<'n>)>,
    uses_old: bool,
    depth: usize,
}

type Compiled<'n> = Result<(Expr, Shape<'n>), String>;

const BOOL: Shape<'static> = Shape::Of(Kind::Bool);

const TYPES: [&str; 18] = [
    "bool",
    "int",
    "uint",
    "double",
    "string",
    "bytes",
    "list",
    "map",
    "null_type",
    "type",
    "optional_type",
    "google.protobuf.Duration",
    "google.protobuf.Timestamp",
    "kubernetes.Quantity",
    "kubernetes.Semver",
    "kubernetes.URL",
    "net.IP",
    "net.CIDR",
];

impl<'n> Compiler<'n> {
    fn expr(&mut self, tree: &IdedExpr) -> Compiled<'n> {
        if self.depth >= MAX_DEPTH {
            return Err(format!("its operations are nested more than {MAX_DEPTH} deep"));
        }
        self.depth += 1;
        let compiled = self.expr_here(tree);
        self.depth -= 1;
        compiled
    }

    fn boxed(&mut self, tree: &IdedExpr) -> Result<Box<Expr>, String> {
        self.expr(tree).map(|(expr, _)| Box::new(expr))
    }

    fn expr_here(&mut self, tree: &IdedExpr) -> Compiled<'n> {
        match &tree.expr {
            Ast::Literal(value) => Ok(literal(value)),
            Ast::Ident(name) => self.ident(name),
            Ast::Select(select) => {
                if let Some(known) = self.type_name(tree) {
                    return Ok((Expr::Const(Val::Type(known)), Shape::Any));
                }
                let (of, shape) = self.expr(&select.operand)?;
                let field = field(&select.field);
                let shape = shape.field(&field)?;
                let of = Box::new(of);
                Ok(if select.test { (Expr::Has { of, field }, BOOL) } else { (Expr::Select { of, field }, shape) })
            }
            Ast::List(list) => {
                let mut items = Vec::with_capacity(list.elements.len());
                for (index, item) in list.elements.iter().enumerate() {
                    items.push((self.expr(item)?.0, list.optional_indices.contains(&index)));
                }
                Ok((Expr::List(items), Shape::Of(Kind::List)))
            }
            Ast::Map(map) => {
                let mut entries = Vec::with_capacity(map.entries.len());
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else { return Err("a map has no fields".into()) };
                    entries.push((self.expr(&entry.key)?.0, self.expr(&entry.value)?.0, entry.optional));
                }
                Ok((Expr::Map(entries), Shape::Of(Kind::Map)))
            }
            Ast::Call(call) => self.call(call),
            Ast::Struct(of) => Err(format!("undeclared reference to '{}'", of.type_name)),
            Ast::Comprehension(_) | Ast::Unspecified => Err("it cannot be read".into()),
        }
    }

    fn ident(&mut self, name: &str) -> Compiled<'n> {
        let name = name.strip_prefix('.').unwrap_or(name);
        if let Some(place) = self.names.iter().rposition(|(known, _)| known == name) {
            self.uses_old |= place == 1;
            return Ok((Expr::Var(place), self.names[place].1));
        }
        match TYPES.into_iter().find(|known| *known == name) {
            Some(known) => Ok((Expr::Const(Val::Type(known)), Shape::Any)),
            None => Err(format!("undeclared reference to '{name}'")),
        }
    }

    /// The type that a name with dots stands for.
    fn type_name(&self, tree: &IdedExpr) -> Option<&'static str> {
        let (mut tree, mut names) = (&tree.expr, Vec::new());
        while let Ast::Select(select) = tree {
            names.push(select.field.as_str());
            tree = &select.operand.expr;
        }
        match tree {
            Ast::Ident(name) if !self.names.iter().any(|(known, _)| known == name) => names.push(name),
            _ => return None,
        }
        names.reverse();
        let name = names.join(".");
        TYPES.into_iter().find(|known| *known == name)
    }

    fn call(&mut self, call: &CallExpr) -> Compiled<'n> {
        let name = call.func_name.as_str();
        match (name, &call.target, call.args.as_slice()) {
            (operators::LOGICAL_AND, None, [_, _]) => {
                let mut all = Vec::new();
                self.chain(call, &mut all)?;
                Ok((Expr::And(all), BOOL))
            }
            (operators::LOGICAL_OR, None, [_, _]) => {
                let mut all = Vec::new();
                self.chain(call, &mut all)?;
                Ok((Expr::Or(all), BOOL))
            }
            (operators::LOGICAL_NOT, None, [operand]) => Ok((Expr::Not(Box::new(self.bool(operand)?)), BOOL)),
            (operators::NEGATE, None, [operand]) => Ok((Expr::Negate(self.boxed(operand)?), Shape::Any)),
            (operators::CONDITIONAL, None, [condition, then, otherwise]) => {
                let condition = self.bool(condition)?;
                let (then, shape) = self.expr(then)?;
                let (otherwise, other) = self.expr(otherwise)?;
                let shape = if shape.kind() == other.kind() { shape.kind().map_or(Shape::Any, Shape::Of) } else { Shape::Any };
                Ok((Expr::If(Box::new([condition, then, otherwise])), shape))
            }
            (operators::INDEX, None, [of, at]) => {
                let (of, shape) = self.expr(of)?;
                let (at, key) = self.expr(at)?;
                if let (Some(of @ Kind::Object), key) = (shape.kind(), key.kind()) {
                    let key = key.map_or("dyn", Kind::name);
                    return Err(format!("found no matching overload for '_[_]' applied to '({}, {key})'", of.name()));
                }
                let at = Box::new(at);
                Ok((Expr::Index { of: Box::new(of), at, optional: false }, shape.item()))
            }
            (operators::OPT_INDEX, None, [of, at]) => {
                Ok((Expr::Index { of: self.boxed(of)?, at: self.boxed(at)?, optional: true }, Shape::Any))
            }
            (operators::OPT_SELECT, None, [of, IdedExpr { expr: Ast::Literal(LiteralValue::String(name)), .. }]) => {
                let (of, shape) = self.expr(of)?;
                let field = field(name.inner());
                shape.field(&field)?;
                Ok((Expr::OptionalSelect { of: Box::new(of), field }, Shape::Any))
            }
            (operators::HAS, None, [IdedExpr { expr: Ast::Select(select), .. }]) => {
                let (of, shape) = self.expr(&select.operand)?;
                let field = field(&select.field);
                shape.field(&field)?;
                Ok((Expr::Has { of: Box::new(of), field }, BOOL))
            }
            (operators::HAS, None, _) => Err("invalid argument to has() macro".into()),
            (name, None, [left, right]) if Operator::of(name).is_some() => {
                let operator = Operator::of(name).unwrap_or(Operator::Equal);
                self.binary(operator, left, right)
            }
            (name, Some(target), args) => match self.macro_call(name, target, args)? {
                Some(compiled) => Ok(compiled),
                None => self.member_call(name, target, args),
            },
            (name, None, args) => self.function(name, false, args),
        }
    }

    /// The operands of a chain of the same logical operator.
    fn chain(&mut self, call: &CallExpr, all: &mut Vec<Expr>) -> Result<(), String> {
        for arg in &call.args {
            match &arg.expr {
                Ast::Call(inner) if inner.func_name == call.func_name && inner.target.is_none() => self.chain(inner, all)?,
                _ => all.push(self.bool(arg)?),
            }
        }
        Ok(())
    }

    fn bool(&mut self, tree: &IdedExpr) -> Result<Expr, String> {
        let (expr, shape) = self.expr(tree)?;
        match shape.kind() {
            Some(kind) if kind != Kind::Bool => Err(format!("found a {} where a bool is expected", kind.name())),
            _ => Ok(expr),
        }
    }

    fn binary(&mut self, operator: Operator, left: &IdedExpr, right: &IdedExpr) -> Compiled<'n> {
        let (left, left_shape) = self.expr(left)?;
        let (right, right_shape) = self.expr(right)?;
        let (a, b) = (left_shape.kind(), right_shape.kind());
        let mismatch =
            |a: Kind, b: Kind| format!("found no matching overload for '{}' applied to '({}, {})'", operator.name(), a.name(), b.name());
        match (operator, a, b) {
            (Operator::In, Some(a), Some(b)) if !matches!(b, Kind::List | Kind::Map) => return Err(mismatch(a, b)),
            (Operator::In, _, _) => {}
            (_, Some(a), Some(b)) if a == b || (operator.orders() && a.is_number() && b.is_number()) => {}
            (_, Some(a), Some(b)) => return Err(mismatch(a, b)),
            _ => {}
        }
        let shape = match (operator.compares(), a) {
            (true, _) => BOOL,
            (false, Some(kind)) if b == a => Shape::Of(kind),
            _ => Shape::Any,
        };
        Ok((Expr::Binary(operator, Box::new([left, right])), shape))
    }

    fn macro_call(&mut self, name: &str, target: &IdedExpr, args: &[IdedExpr]) -> Result<Option<(Expr, Shape<'n>)>, String> {
        let variables = |count: usize| -> Option<Vec<String>> {
            let names = args.iter().take(count).map(|arg| match &arg.expr {
                Ast::Ident(name) => Some(name.clone()),
                _ => None,
            });
            names.collect()
        };
        let (kind, count, filtered) = match (name, args.len()) {
            ("all", count @ (2 | 3)) => (LoopKind::All, count - 1, false),
            ("exists", count @ (2 | 3)) => (LoopKind::Exists, count - 1, false),
            ("exists_one" | "existsOne", count @ (2 | 3)) => (LoopKind::ExistsOne, count - 1, false),
            ("filter", 2) => (LoopKind::Filter, 1, false),
            ("map", count @ (2 | 3)) => (LoopKind::Map, 1, count == 3),
            ("transformList", count @ (3 | 4)) => (LoopKind::Map, 2, count == 4),
            ("transformMap", count @ (3 | 4)) => (LoopKind::MapValues, 2, count == 4),
            ("transformMapEntry", count @ (3 | 4)) => (LoopKind::MapEntries, 2, count == 4),
            ("sortBy", 2) => (LoopKind::SortBy, 1, false),
            ("optMap" | "optFlatMap", 2) => {
                let Some(names) = variables(1) else { return Err(format!("{name}() must be told the name of a variable")) };
                let of = self.boxed(target)?;
                let body = self.within(names.into_iter().map(|name| (name, Shape::Any)).collect(), |compiler| compiler.boxed(&args[1]))?;
                return Ok(Some((Expr::OptionalMap { of, body, flat: name == "optFlatMap" }, Shape::Any)));
            }
            _ => return Ok(None),
        };
        let Some(names) = variables(count) else { return Err(format!("{name}() must be told the name of a variable")) };
        let (range, shape) = self.expr(target)?;
        let shapes = match (count, shape.kind()) {
            (1, Some(Kind::List)) => vec![shape.item()],
            (1, Some(Kind::Map)) => vec![shape.key()],
            (2, Some(Kind::List | Kind::Map)) => vec![shape.key(), shape.item()],
            (_, None) => vec![Shape::Any; count],
            (_, Some(kind)) => {
                return Err(format!(
                    "expression of type '{}' cannot be range of a comprehension (must be list, map, or dynamic)",
                    kind.name()
                ));
            }
        };
        let (filter, body) = self.within(names.into_iter().zip(shapes).collect(), |compiler| {
            let filter = if filtered { Some(compiler.bool(&args[count])?) } else { None };
            let body = &args[count + usize::from(filtered)];
            let asks = matches!(kind, LoopKind::All | LoopKind::Exists | LoopKind::ExistsOne | LoopKind::Filter);
            Ok((filter, if asks { compiler.bool(body)? } else { compiler.expr(body)?.0 }))
        })?;
        let shape = match kind {
            LoopKind::All | LoopKind::Exists | LoopKind::ExistsOne => BOOL,
            LoopKind::Map | LoopKind::Filter | LoopKind::SortBy => Shape::Of(Kind::List),
            LoopKind::MapValues | LoopKind::MapEntries => Shape::Of(Kind::Map),
        };
        Ok(Some((Expr::Loop(Box::new(Loop { kind, range, pairs: count == 2, filter, body })), shape)))
    }

    /// With further variables.
    fn within<T>(&mut self, names: Vec<(String, Shape<'n>)>, compile: impl FnOnce(&mut Self) -> Result<T, String>) -> Result<T, String> {
        let before = self.names.len();
        self.names.extend(names);
        let compiled = compile(self);
        self.names.truncate(before);
        compiled
    }

    fn member_call(&mut self, name: &str, target: &IdedExpr, args: &[IdedExpr]) -> Compiled<'n> {
        if let Ast::Ident(space) = &target.expr
            && !self.names.iter().any(|(known, _)| known == space)
        {
            return self.function(&format!("{space}.{name}"), false, args);
        }
        let mut all = vec![target.clone()];
        all.extend_from_slice(args);
        self.function(name, true, &all)
    }

    fn function(&mut self, name: &str, member: bool, args: &[IdedExpr]) -> Compiled<'n> {
        let Some(function) = functions::find(name, member, args.len()) else {
            return Err(if functions::exists(name, member) {
                format!("'{name}' does not take {} arguments", args.len() - usize::from(member))
            } else {
                format!("undeclared reference to '{name}'")
            });
        };
        if let ("duration" | "timestamp", [IdedExpr { expr: Ast::Literal(LiteralValue::String(text)), .. }]) = (name, args)
            && !functions::time::is_one(name, text.inner())
        {
            return Err(format!("invalid {name} argument"));
        }
        let mut args: Vec<Expr> = args.iter().map(|arg| self.expr(arg).map(|(expr, _)| expr)).collect::<Result<_, _>>()?;
        if let ("matches" | "find" | "findAll", Some(pattern)) = (name, args.get_mut(1))
            && let Expr::Const(Val::Text(text)) = pattern
        {
            *pattern = Expr::Const(Val::Pattern(functions::pattern(text)?));
        }
        Ok((Expr::Call { function, args }, Shape::Any))
    }
}

fn literal(value: &LiteralValue) -> (Expr, Shape<'static>) {
    let (value, shape) = match value {
        LiteralValue::Boolean(value) => (Val::Bool(*value.inner()), BOOL),
        LiteralValue::Int(value) => (Val::Int(*value.inner()), Shape::Of(Kind::Int)),
        LiteralValue::UInt(value) => (Val::Uint(*value.inner()), Shape::Of(Kind::Uint)),
        LiteralValue::Double(value) => (Val::Double(*value.inner()), Shape::Of(Kind::Double)),
        LiteralValue::String(value) => (Val::text(value.inner()), Shape::Of(Kind::Text)),
        LiteralValue::Bytes(value) => (Val::Bytes(value.inner().into()), Shape::Any),
        LiteralValue::Null => (Val::Null, Shape::Of(Kind::Null)),
    };
    (Expr::Const(value), shape)
}

/// A field by the name that stands in an expression, where what is no identifier is escaped: `a__dash__b`, `__namespace__`.
fn field(written: &str) -> Field {
    const WORDS: [&str; 22] = [
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
        "self",
    ];
    let word = written.strip_prefix("__").and_then(|rest| rest.strip_suffix("__")).filter(|word| WORDS.contains(word));
    let mut name = String::with_capacity(written.len());
    let mut rest = written;
    while let Some(char) = rest.chars().next() {
        let escapes = [("__underscores__", "__"), ("__dot__", "."), ("__dash__", "-"), ("__slash__", "/")];
        let escaped = escapes.into_iter().find_map(|(escape, plain)| Some((rest.strip_prefix(escape)?, plain)));
        match escaped {
            Some((after, plain)) => {
                name.push_str(plain);
                rest = after;
            }
            None => {
                name.push(char);
                rest = &rest[char.len_utf8()..];
            }
        }
    }
    Field { written: written.into(), name: word.map_or(name, str::to_owned).into() }
}
