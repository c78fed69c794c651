//! `basaltctl token create|list|revoke`: tokens for programs and people that have no certificate. The secret of a token is made
//! here and printed once; the server learns only its hash.

use super::usage;
use crate::{
    cli::Global,
    connect::Server,
    discovery::{get, request},
    error::Error,
    output::{
        Screen, age,
        table::{Column, Row, Style, Table},
    },
};
use clap::{Args, Subcommand};
use http::{Request, header};
use jiff::{Span, Timestamp, tz::TimeZone};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const TOKENS: &str = "/apis/authentication.basalt.dev/v1/accesstokens";

/// Makes, lists and revokes tokens.
#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make a token and print it; it is not shown again
    Create(Create),
    /// List the tokens: whom they stand for, and until when
    List,
    /// Revoke tokens; they are good for nothing when this ends
    Revoke(Revoke),
}

/// Makes a token.
#[derive(Debug, Args)]
pub struct Create {
    /// Name of the token
    #[arg(value_name = "NAME")]
    name: String,
    /// The user that it stands for [default: the name of the token]
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// A group that the user is in; may be given several times
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// How long it is good, such as 90d or 12h
    #[arg(long, value_name = "DURATION", default_value = "90d")]
    expires_in: String,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
}

/// Revokes tokens.
#[derive(Debug, Args)]
pub struct Revoke {
    /// Names of the tokens
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

impl Token {
    /// Runs the verb.
    pub async fn run(&self, global: &Global, screen: &Screen) -> Result<(), Error> {
        let server = Server::connect(global).await?;
        match self {
            Self::Create(create) => create.run(&server, screen).await,
            Self::List => list(&server, screen).await,
            Self::Revoke(revoke) => revoke.run(&server, screen).await,
        }
    }
}

impl Create {
    async fn run(&self, server: &Server, screen: &Screen) -> Result<(), Error> {
        let wrong = || usage(format!("--expires-in {:?} is not a time to come", self.expires_in), "write 90d, 12h or 1y");
        let now = Timestamp::now();
        let span: Span = self.expires_in.parse().map_err(|_| wrong())?;
        let end = now.to_zoned(TimeZone::UTC).checked_add(span).map_err(|_| wrong())?.timestamp();
        if end <= now {
            return Err(wrong());
        }
        let mut secret = [0; 32];
        let random = rustls::crypto::ring::default_provider().secure_random;
        random.fill(&mut secret).map_err(|_| Error::Bug("the system gives no random bytes".into()))?;
        let token = format!("basalt_{}_{}", self.name, hex(&secret));
        let user = self.user.as_ref().unwrap_or(&self.name);
        let end = format!("{end:.0}");
        let mut object = json!({
            "apiVersion": "authentication.basalt.dev/v1",
            "kind": "AccessToken",
            "metadata": { "name": self.name },
            "spec": { "user": user, "groups": self.groups, "tokenHash": hex(&Sha256::digest(&token)), "expiresAt": end },
        });
        if let Some(description) = &self.description {
            object["spec"]["description"] = description.as_str().into();
        }
        let made = Request::post(TOKENS).header(header::CONTENT_TYPE, "application/json");
        server.call(&format!("make the token {}", self.name), request(made, object.to_string().into_bytes())?).await?;
        screen.say(&format!("{}: token {} for user {user} until {end}; it is not shown again", server.introduce(), self.name));
        screen.print(&format!("{token}\n"))
    }
}

impl Revoke {
    async fn run(&self, server: &Server, screen: &Screen) -> Result<(), Error> {
        screen.say(&server.introduce());
        for name in &self.names {
            if name.contains(['/', '?', '#', '%']) {
                return Err(usage(format!("{name:?} is no name of a token"), "see basaltctl token list"));
            }
            let gone = Request::delete(format!("{TOKENS}/{name}"));
            server.call(&format!("revoke the token {name}"), request(gone, Vec::new())?).await?;
            screen.say(&format!("token {name} is revoked"));
        }
        Ok(())
    }
}

async fn list(server: &Server, screen: &Screen) -> Result<(), Error> {
    let found = server.call("list the tokens", get(TOKENS)?).await?;
    let now = Timestamp::now();
    let row = |token: &Value| {
        let text = |pointer: &str| token.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let groups: Vec<&str> = token["spec"]["groups"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let left = text("/spec/expiresAt").parse::<Timestamp>().map(|end| end.duration_since(now));
        let expires = match left {
            Ok(left) if left.is_positive() => format!("in {}", age::short(left)),
            _ => "expired".to_owned(),
        };
        Row {
            cells: vec![
                text("/metadata/name"),
                text("/spec/user"),
                if groups.is_empty() { "-".into() } else { groups.join(",") },
                expires,
                text("/spec/description"),
            ],
            name: text("/metadata/name"),
            ..Row::default()
        }
    };
    let columns = ["NAME", "USER", "GROUPS", "EXPIRES", "DESCRIPTION"].map(Column::text).into();
    let table = Table { columns, rows: found["items"].as_array().into_iter().flatten().map(row).collect() };
    if table.rows.is_empty() {
        screen.say("no tokens");
        return Ok(());
    }
    screen.print(&table.render(Style { room: screen.columns, wide: false, no_headers: false, colour: screen.colour }))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
