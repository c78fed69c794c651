//! The rules of a schema (`x-kubernetes-validations`): expressions that must hold of a value, and, where they name `oldSelf`, of
//! a value and what it was before.

use super::{
    ListType, Node, SchemaError,
    cel::{Failure, Gives, Meter, Program, Scope, Val},
    join,
    validate::{MAX_CAUSES, short, type_of},
};
use crate::error::{Cause, CauseReason};
use serde_json::Value;

/// How long all rules of a schema may be together: they are read one after the other, when a definition comes.
const MAX_LENGTH: usize = 256 << 10;

/// How long a message may be that an expression makes.
const MAX_MESSAGE: usize = 5 << 10;

/// A rule.
#[derive(Debug)]
pub struct Rule {
    text: String,
    program: Program,
    message: Option<String>,
    message_program: Option<Program>,
    reason: CauseReason,
    /// Path of the field at fault below the value.
    field_path: String,
    /// It runs where there is no old value too.
    optional_old: bool,
}

/// Where in a schema rules stand.
#[derive(Clone, Copy)]
struct Place {
    /// The value is an object with apiVersion, kind and metadata.
    whole: bool,
    /// It can be said which old value belongs to a value.
    correlatable: bool,
}

/// Compiles the rules of a schema and puts them where they stand.
pub(super) fn attach(root: &mut Node, schema: &Value) -> Result<(), SchemaError> {
    let length = length(schema);
    if length > MAX_LENGTH {
        let reason = format!("its rules are {length} bytes long together, and {MAX_LENGTH} is the most that is taken");
        return Err(SchemaError { path: "the object".into(), reason });
    }
    attach_here(root, &[schema], "", Place { whole: true, correlatable: true })
}

/// The schemas are all of the same value: what `allOf` says goes with the rest. Rules within the other alternatives count for
/// nothing, as in Kubernetes.
fn attach_here(node: &mut Node, schemas: &[&Value], path: &str, place: Place) -> Result<(), SchemaError> {
    let mut all = Vec::new();
    schemas.iter().for_each(|schema| with_parts(schema, &mut all));
    let below = |key: &str| -> Vec<&Value> { all.iter().filter_map(|schema| schema.get(key)).collect() };
    let (properties, additional, items) = (below("properties"), below("additionalProperties"), below("items"));
    let of = |child: &Node| Place { whole: child.embedded, ..place };
    for (name, property) in &mut node.properties {
        let schemas: Vec<_> = properties.iter().filter_map(|properties| properties.get(name)).collect();
        let place = of(property);
        attach_here(property, &schemas, &join(path, name), place)?;
        node.has_rules |= property.has_rules;
    }
    if let Some(child) = &mut node.additional {
        let place = of(child);
        attach_here(child, &additional, &format!("{path}.*"), place)?;
        node.has_rules |= child.has_rules;
    }
    if let Some(child) = &mut node.items {
        let correlatable = place.correlatable && matches!(node.list, ListType::Map(_));
        let place = Place { correlatable, ..of(child) };
        attach_here(child, &items, &format!("{path}[*]"), place)?;
        node.has_rules |= child.has_rules;
    }
    for rule in all.iter().filter_map(|schema| schema["x-kubernetes-validations"].as_array()).flatten() {
        let path = || if path.is_empty() { "the object".to_owned() } else { path.to_owned() };
        let rule = Rule::compile(rule, node, place).map_err(|reason| SchemaError { path: path(), reason })?;
        node.rules.push(rule);
        node.has_rules = true;
    }
    Ok(())
}

fn with_parts<'s>(schema: &'s Value, all: &mut Vec<&'s Value>) {
    all.push(schema);
    schema["allOf"].as_array().into_iter().flatten().for_each(|part| with_parts(part, all));
}

impl Rule {
    /// Compiles a rule of a schema; says what is wrong with it.
    fn compile(rule: &Value, node: &Node, place: Place) -> Result<Self, String> {
        let text = |key: &str| rule[key].as_str().filter(|text| !text.trim().is_empty());
        let source = text("rule").ok_or("a rule has no expression")?;
        let wrong = |what: &str, source: &str, why: String| format!("the {what} {source:?} is not usable: {why}");
        let optional_old = rule["optionalOldSelf"].as_bool().unwrap_or(false);
        let scope = Scope { node, whole: place.whole, optional_old };
        let program = Program::compile(source, scope, Gives::Bool).map_err(|why| wrong("rule", source, why))?;
        if program.uses_old() && !place.correlatable {
            let why = "oldSelf cannot be used where it cannot be told which item was which: below a list that is not of type map";
            return Err(wrong("rule", source, why.into()));
        }
        if optional_old && !program.uses_old() {
            return Err(wrong("rule", source, "optionalOldSelf is set, but it does not use oldSelf".into()));
        }
        let message_program = match text("messageExpression") {
            Some(source) => Some(Program::compile(source, scope, Gives::Text).map_err(|why| wrong("message expression", source, why))?),
            None => None,
        };
        let message = text("message").map(str::to_owned);
        if message.as_deref().is_some_and(|message| message.contains('\n')) {
            return Err(wrong("message", message.as_deref().unwrap_or_default(), "it has more than one line".into()));
        }
        if message.is_none() && source.trim().contains('\n') {
            return Err(wrong("rule", source, "it has more than one line and therefore needs a message".into()));
        }
        let reason = match rule["reason"].as_str() {
            None | Some("FieldValueInvalid") => CauseReason::FieldValueInvalid,
            Some("FieldValueForbidden") => CauseReason::FieldValueForbidden,
            Some("FieldValueRequired") => CauseReason::FieldValueRequired,
            Some("FieldValueDuplicate") => CauseReason::FieldValueDuplicate,
            Some(other) => return Err(wrong("reason", other, "a rule cannot fail for it".into())),
        };
        let field_path = match text("fieldPath") {
            Some(path) => known_path(path, node).ok_or_else(|| wrong("fieldPath", path, "it leads to no field of the schema".into()))?,
            None => String::new(),
        };
        Ok(Self { text: source.trim().to_owned(), program, message, message_program, reason, field_path, optional_old })
    }

    /// What it may cost to evaluate it once, and to make its message.
    pub(super) fn costs(&self) -> (u64, u64) {
        (self.program.cost(), self.message_program.as_ref().map_or(0, Program::cost))
    }

    /// What to say when the rule does not hold.
    fn failed<'a>(&self, new: &Val<'a>, old: &Val<'a>, meter: &mut Meter) -> String {
        if let Some(program) = &self.message_program {
            match program.run(new.clone(), old.clone(), meter) {
                Ok(Val::Text(text)) if !text.trim().is_empty() && !text.contains('\n') && text.len() <= MAX_MESSAGE => {
                    return text.trim().to_owned();
                }
                Ok(_) => tracing::debug!("the message expression of rule {:?} gives no line of text", self.text),
                Err(failure) => tracing::debug!("the message expression of rule {:?} fails: {failure}", self.text),
            }
        }
        self.message.clone().unwrap_or_else(|| format!("failed rule: {}", self.text))
    }
}

/// How long all rules of a schema are together.
fn length(schema: &Value) -> usize {
    let texts = |rule: &Value| ["rule", "messageExpression"].iter().filter_map(|key| Some(rule[*key].as_str()?.len())).sum::<usize>();
    match schema {
        Value::Object(fields) => {
            let rules = fields.get("x-kubernetes-validations").and_then(Value::as_array);
            rules.into_iter().flatten().map(texts).sum::<usize>() + fields.values().map(length).sum::<usize>()
        }
        Value::Array(items) => items.iter().map(length).sum(),
        _ => 0,
    }
}

/// A path such as `.spec.disks` or `.labels['a.b']`, if the schema knows it, without the leading dot.
fn known_path(path: &str, node: &Node) -> Option<String> {
    let (mut rest, mut node, mut known) = (path, node, String::new());
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("['") {
            let (name, after) = after.split_once("']")?;
            node = node.field(name)?;
            known = format!("{known}[{name}]");
            rest = after;
        } else {
            let after = rest.strip_prefix('.')?;
            let (name, after) = after.split_at(after.find(['.', '[']).unwrap_or(after.len()));
            node = node.field(name).filter(|_| !name.is_empty())?;
            known = join(&known, name);
            rest = after;
        }
    }
    Some(known)
}

/// Everything that breaks a rule, up to a bound.
pub(super) fn check(root: &Node, new: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut check = Check { causes: Vec::new(), meter: Meter::new(), over: false };
    check.value(root, new, old, "");
    check.causes
}

struct Check {
    causes: Vec<Cause>,
    meter: Meter,
    /// Nothing more is evaluated.
    over: bool,
}

impl Check {
    fn value(&mut self, node: &Node, new: &Value, old: Option<&Value>, path: &str) {
        if !node.has_rules || new.is_null() || self.over || self.causes.len() >= MAX_CAUSES {
            return;
        }
        // A value that was not changed may go on breaking rules that it broke when they came.
        let unchanged = !node.rules.is_empty() && old == Some(new);
        for rule in &node.rules {
            let transition = rule.program.uses_old();
            let runs = if transition { old.is_some_and(|old| !old.is_null()) || rule.optional_old } else { !unchanged };
            if runs && !self.over {
                self.rule(rule, node, new, old, path);
            }
        }
        match new {
            Value::Object(fields) => {
                for (name, value) in fields {
                    if let Some(property) = node.field(name).filter(|property| property.has_rules) {
                        let path = if node.properties.contains_key(name) { join(path, name) } else { format!("{path}[{name}]") };
                        self.value(property, value, old.and_then(|old| old.get(name)), &path);
                    }
                }
            }
            Value::Array(items) => {
                let Some(item) = node.items.as_deref().filter(|item| item.has_rules) else { return };
                let unchanged = old == Some(new);
                let olds = old.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
                for (index, value) in items.iter().enumerate() {
                    let old = match &node.list {
                        // Mostly it is where it was.
                        list @ ListType::Map(_) => {
                            let here = olds.get(index).filter(|old| list.same_item(old, value));
                            here.or_else(|| olds.iter().find(|old| list.same_item(old, value)))
                        }
                        // Nothing here compares with it: it tells only that the item is as it was.
                        _ if unchanged => olds.get(index),
                        _ => None,
                    };
                    self.value(item, value, old, &format!("{path}[{index}]"));
                }
            }
            _ => {}
        }
    }

    fn rule(&mut self, rule: &Rule, node: &Node, new: &Value, old: Option<&Value>, path: &str) {
        let this = Val::of(new, Some(node));
        let that = match old.filter(|old| !old.is_null()).map(|old| Val::of(old, Some(node))) {
            old if rule.optional_old => Val::optional(old),
            old => old.unwrap_or(Val::Null),
        };
        let field = match rule.field_path.as_str() {
            "" => path.to_owned(),
            below if below.starts_with('[') => format!("{path}{below}"),
            below => join(path, below),
        };
        let (over, told) = match rule.program.run(this.clone(), that.clone(), &mut self.meter) {
            Ok(Val::Bool(true)) => return,
            Ok(Val::Bool(false)) => {
                // A value that is more than a line is not shown.
                let shown = (!new.is_object() && !new.is_array()).then(|| short(new));
                let told = rule.failed(&this, &that, &mut self.meter);
                return self.cause(rule.reason, &field, shown, &told);
            }
            Ok(other) => (false, format!("it evaluated to a {} and not to a bool, evaluating rule: {}", other.type_name(), rule.text)),
            Err(Failure::Wrong(why)) => (false, format!("{why} evaluating rule: {}", rule.text)),
            Err(Failure::Call) => {
                (true, format!("no further validation rules will be run due to call cost exceeds limit for rule: {}", rule.text))
            }
            Err(Failure::Budget) => {
                (true, "validation failed due to running out of cost budget, no further validation rules will be run".to_owned())
            }
        };
        self.over = over;
        self.cause(CauseReason::FieldValueInvalid, path, Some(format!("{:?}", type_of(new))), &told);
    }

    fn cause(&mut self, reason: CauseReason, field: &str, value: Option<String>, told: &str) {
        let with_value = |what: &str| value.map_or_else(|| what.to_owned(), |value| format!("{what}: {value}"));
        let what = match reason {
            CauseReason::FieldValueForbidden => "Forbidden".to_owned(),
            CauseReason::FieldValueRequired => "Required value".to_owned(),
            CauseReason::FieldValueDuplicate => with_value("Duplicate value"),
            _ => with_value("Invalid value"),
        };
        let field = if field.is_empty() { "<nil>" } else { field };
        self.causes.push(Cause { reason, message: format!("{what}: {told}"), field: field.to_owned() });
    }
}
