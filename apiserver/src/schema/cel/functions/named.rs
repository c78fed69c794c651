//! Formats of texts by name: `!format.dns1123Label().validate(self.name).hasValue()`.

use super::{Function, global, member};
use crate::{
    metadata,
    schema::{
        cel::{Failure, Val},
        validate::is_rfc3339,
    },
};
use base64::{Engine, engine::general_purpose::STANDARD};

/// A format, which tells what is wrong with a text.
#[derive(Debug)]
pub struct Format {
    name: &'static str,
    wrong: fn(&str) -> Option<String>,
}

static FORMATS: [Format; 13] = [
    Format { name: "dns1123Label", wrong: metadata::label },
    Format { name: "dns1123LabelPrefix", wrong: |text| metadata::label(&completed(text)) },
    Format { name: "dns1123Subdomain", wrong: metadata::subdomain },
    Format { name: "dns1123SubdomainPrefix", wrong: |text| metadata::subdomain(&completed(text)) },
    Format { name: "dns1035Label", wrong: old_label },
    Format { name: "dns1035LabelPrefix", wrong: |text| old_label(&completed(text)) },
    Format { name: "qualifiedName", wrong: metadata::qualified },
    Format {
        name: "labelValue",
        wrong: |text| {
            (!metadata::label_value(text)).then(|| "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character".into())
        },
    },
    Format { name: "uri", wrong: |text| (!super::url::is_url(text)).then(|| "invalid URL".into()) },
    Format { name: "uuid", wrong: |text| uuid::Uuid::try_parse(text).is_err().then(|| "does not match the UUID format".into()) },
    Format { name: "byte", wrong: |text| STANDARD.decode(text).is_err().then(|| "invalid base64".into()) },
    Format { name: "date", wrong: |text| text.parse::<jiff::civil::Date>().is_err().then(|| "invalid date".into()) },
    Format { name: "datetime", wrong: |text| (!is_rfc3339(text)).then(|| "invalid datetime".into()) },
];

pub const FUNCTIONS: &[Function] = &[
    global("format.dns1123Label", 0..=0, |_, _| Ok(by_name("dns1123Label"))),
    global("format.dns1123LabelPrefix", 0..=0, |_, _| Ok(by_name("dns1123LabelPrefix"))),
    global("format.dns1123Subdomain", 0..=0, |_, _| Ok(by_name("dns1123Subdomain"))),
    global("format.dns1123SubdomainPrefix", 0..=0, |_, _| Ok(by_name("dns1123SubdomainPrefix"))),
    global("format.dns1035Label", 0..=0, |_, _| Ok(by_name("dns1035Label"))),
    global("format.dns1035LabelPrefix", 0..=0, |_, _| Ok(by_name("dns1035LabelPrefix"))),
    global("format.qualifiedName", 0..=0, |_, _| Ok(by_name("qualifiedName"))),
    global("format.labelValue", 0..=0, |_, _| Ok(by_name("labelValue"))),
    global("format.uri", 0..=0, |_, _| Ok(by_name("uri"))),
    global("format.uuid", 0..=0, |_, _| Ok(by_name("uuid"))),
    global("format.byte", 0..=0, |_, _| Ok(by_name("byte"))),
    global("format.date", 0..=0, |_, _| Ok(by_name("date"))),
    global("format.datetime", 0..=0, |_, _| Ok(by_name("datetime"))),
    global("format.named", 1..=1, |_, args| match args {
        [Val::Text(name)] => Ok(Some(Val::optional(by_name(name)))),
        _ => Ok(None),
    }),
    member("validate", 2..=2, |meter, args| match args {
        [Val::Format(format), Val::Text(text)] => {
            meter.charge(args[1].weight())?;
            Ok(Some(Val::optional((format.wrong)(text).map(|wrong| Val::list(vec![Val::text(wrong)])))))
        }
        _ => Ok::<_, Failure>(None),
    }),
];

fn by_name<'a>(name: &str) -> Option<Val<'a>> {
    FORMATS.iter().find(|format| format.name == name).map(Val::Format)
}

/// What a prefix that ends in a dash may become.
fn completed(prefix: &str) -> String {
    let text = prefix.strip_suffix('-').unwrap_or(prefix);
    if text.len() == prefix.len() { prefix.to_owned() } else { format!("{text}a") }
}

/// A label as it was before labels could start with a digit.
fn old_label(text: &str) -> Option<String> {
    match metadata::label(text) {
        None if text.starts_with(|c: char| c.is_ascii_lowercase()) => None,
        _ => Some("a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123')".into()),
    }
}
