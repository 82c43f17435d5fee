//! `lateen test`: sends what traffic tests say, and judges what comes back.

use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::manifests;
use crate::state_dir::StateDir;
use crate::terminal::Style;
use crate::traffic_test::{self, Live, Ran, Report, Result as Tested, Written, junit};
use crate::waiting;

/// How long proxies may take to have what was applied before.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(clap::Args)]
#[command(after_help = "Exits 0 when everything is as expected, 1 when something is not or a test cannot be run.")]
pub struct Arguments {
    /// Traffic tests: files, folders, or - for standard input. Manifests among them are passed over
    #[arg(short, long = "filename", value_name = "PATH", required = true)]
    files: Vec<PathBuf>,
    /// Write the results here too, as JUnit XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    #[command(flatten)]
    state_dir: StateDir,
}

/// Runs every test of the files, one after the other.
pub fn run(arguments: Arguments) -> Result<ExitCode, Error> {
    let began = Instant::now();
    let mut tests: Vec<Written> = Vec::new();
    for (source, bytes) in manifests::sources(&arguments.files)? {
        tests.extend(traffic_test::read(&source, &bytes)?);
    }
    if tests.is_empty() {
        return Err(Error::Usage("no traffic test is in these files".to_owned()));
    }
    let report = Report::new(Style::of_stdout());
    let results = super::block_on(live(&tests, &arguments.state_dir, &report))?;
    report.sum(&results, began.elapsed());
    if let Some(path) = &arguments.junit {
        std::fs::write(path, junit(&results)).map_err(Error::io(path.display().to_string()))?;
    }
    let passed = results.iter().all(Tested::passed);
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn live(tests: &[Written], state: &StateDir, report: &Report) -> Result<Vec<Tested>, Error> {
    let client = state.client();
    waiting::in_force(&client, state, &[], PATIENCE).await?;
    let mut live = Live::new(client).await?;
    let mut results = Vec::new();
    for written in tests {
        results.push(run_live(written, &mut live, report).await);
    }
    Ok(results)
}

/// Runs one test and writes as it goes.
pub async fn run_live(written: &Written, live: &mut Live, report: &Report) -> Tested {
    let test = &written.test;
    report.test(&test.metadata.name, &test.spec.title);
    let mut result = Tested {
        test: test.metadata.name.clone(),
        source: written.origin.source.to_string(),
        steps: Vec::new(),
        broken: None,
    };
    for step in &test.spec.steps {
        let done = Rc::default();
        let running = live.step(step, &test.metadata.namespace, Rc::clone(&done));
        let ran: Result<Ran, Error> = report.progress(&step.name, step.send.count, done, running).await;
        match ran {
            Ok(ran) => {
                report.step(&ran);
                result.steps.push(ran);
            }
            Err(error) => {
                let reason = format!("{}: {error}", step.name);
                report.broken(&reason);
                result.broken = Some(reason);
                break;
            }
        }
    }
    result
}
