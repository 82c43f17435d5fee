//! `lateen get`: shows objects, as kubectl does.

use std::process::ExitCode;

use lateen_galley::{Kind, KindInfo, kind};
use lateen_local::client::{Client, ClientError, Selection};
use serde::Serialize;
use serde_json::{Value, json};

use crate::error::Error;
use crate::state_dir::StateDir;
use crate::table::{Show, Table};
use crate::terminal;

#[derive(clap::Args)]
pub struct Arguments {
    /// What: a kind (pods, svc, virtualservice ...), several with commas, `all`, or KIND/NAME
    kind: String,
    /// Which ones; all when none is named
    names: Vec<String>,
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Of all namespaces
    #[arg(short = 'A', long, conflicts_with = "names")]
    all_namespaces: bool,
    /// Only objects with these labels, as in app=helloworld,version!=v1
    #[arg(short = 'l', long, value_name = "LABELS", conflicts_with = "names")]
    selector: Option<String>,
    #[arg(short, long, value_enum)]
    output: Option<Output>,
    #[command(flatten)]
    state_dir: StateDir,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Output {
    Wide,
    Yaml,
    Json,
    Name,
}

/// One kind asked for, and its objects by name, or all of them.
struct Wanted {
    kind: Kind,
    names: Vec<String>,
}

/// Prints what was asked for.
pub fn run(arguments: Arguments) -> Result<ExitCode, Error> {
    terminal::die_quietly_on_closed_pipe();
    let wanted = wanted(&arguments)?;
    let client = arguments.state_dir.client();
    super::block_on(async {
        match arguments.output {
            None | Some(Output::Wide) => tables(&client, &arguments, &wanted).await,
            Some(output) => objects(&client, &arguments, &wanted, output).await,
        }
    })
}

fn wanted(arguments: &Arguments) -> Result<Vec<Wanted>, Error> {
    let kinds = |word: &str| kind::by_typed_name(word).map_err(|error| Error::Usage(error.to_string()));
    if !arguments.kind.contains('/') {
        let kinds = kinds(&arguments.kind)?.into_iter();
        return Ok(kinds.map(|kind| Wanted { kind, names: arguments.names.clone() }).collect());
    }
    let mut wanted = Vec::new();
    for one in std::iter::once(&arguments.kind).chain(&arguments.names) {
        let Some((word, name)) = one.split_once('/') else {
            return Err(Error::Usage(format!("{one:?} is not KIND/NAME, as the one before it")));
        };
        wanted.extend(kinds(word)?.into_iter().map(|kind| Wanted { kind, names: vec![name.to_string()] }));
    }
    Ok(wanted)
}

impl Arguments {
    fn selection(&self) -> Selection {
        Selection {
            namespace: (!self.all_namespaces).then(|| self.namespace.clone()),
            labels: self.selector.clone().unwrap_or_default(),
            ..Selection::default()
        }
    }
}

async fn tables(client: &Client, arguments: &Arguments, wanted: &[Wanted]) -> Result<ExitCode, Error> {
    let mut code = ExitCode::SUCCESS;
    let mut shown = 0;
    for one in wanted {
        let Some(table) = table(client, arguments, one, &mut code).await? else { continue };
        let info = one.kind.info();
        let prefix = if wanted.len() > 1 { format!("{}/", super::label(info)) } else { String::new() };
        let namespaces = arguments.all_namespaces && info.namespaced;
        if shown > 0 {
            println!();
        }
        shown += 1;
        print!("{}", table.render(Show { wide: arguments.output == Some(Output::Wide), namespaces, prefix: &prefix }));
    }
    if shown == 0 && code == ExitCode::SUCCESS {
        if arguments.all_namespaces || wanted.iter().all(|one| !one.kind.info().namespaced) {
            eprintln!("No resources found");
        } else {
            eprintln!("No resources found in {} namespace.", arguments.namespace);
        }
    }
    Ok(code)
}

/// The table of one kind; `None` if it has no row. An object that is not there is told and the others are shown all the
/// same, as kubectl does.
async fn table(
    client: &Client,
    arguments: &Arguments,
    wanted: &Wanted,
    code: &mut ExitCode,
) -> Result<Option<Table>, Error> {
    let selection = arguments.selection();
    let mut answers = Vec::new();
    if wanted.names.is_empty() {
        answers.push(client.table(wanted.kind, &selection, None).await);
    }
    for name in &wanted.names {
        answers.push(client.table(wanted.kind, &selection, Some(name)).await);
    }
    let mut table: Option<Table> = None;
    for answer in answers {
        match answer {
            Ok(answer) => {
                let read: Table = serde_json::from_value(answer).map_err(Error::unreadable)?;
                match &mut table {
                    Some(table) => table.append(read),
                    None => table = Some(read),
                }
            }
            Err(ClientError::Refused(refused)) => {
                eprintln!("{}", Error::from(ClientError::Refused(refused)));
                *code = ExitCode::FAILURE;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(table.filter(|table| !table.is_empty()))
}

async fn objects(client: &Client, arguments: &Arguments, wanted: &[Wanted], output: Output) -> Result<ExitCode, Error> {
    let single = matches!(wanted, [one] if one.names.len() == 1);
    let mut items = Vec::new();
    for one in wanted {
        if one.names.is_empty() {
            let mut list = client.list(one.kind, &arguments.selection()).await?;
            if let Some(Value::Array(list)) = list.get_mut("items").map(Value::take) {
                items.extend(list.into_iter().map(|item| named(item, one.kind.info())));
            }
        }
        for name in &one.names {
            items.push(client.get(one.kind, &arguments.namespace, name).await?);
        }
    }
    if output == Output::Name {
        for item in &items {
            println!("{}", super::name(item));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let shown = match items.pop() {
        Some(item) if single => item,
        last => {
            items.extend(last);
            json!({"apiVersion": "v1", "items": items, "kind": "List", "metadata": {"resourceVersion": ""}})
        }
    };
    match output {
        Output::Yaml => print!("{}", serde_norway::to_string(&shown).map_err(Error::unreadable)?),
        _ => println!("{}", pretty(&shown)?),
    }
    Ok(ExitCode::SUCCESS)
}

/// A list's items need not say what they are; by themselves they must.
fn named(mut item: Value, kind: &KindInfo) -> Value {
    if let Value::Object(fields) = &mut item {
        fields.entry("apiVersion").or_insert_with(|| kind.api_version().into());
        fields.entry("kind").or_insert_with(|| kind.name.into());
    }
    item
}

/// JSON with kubectl's indentation of four blanks.
fn pretty(value: &Value) -> Result<String, Error> {
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, formatter)).map_err(Error::unreadable)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
