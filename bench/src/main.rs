//! Side-by-side benchmarks: the proxy against Envoy on the same bootstrap file, against HAProxy and
//! nginx on the same plain job, on this machine, in interleaved rounds.
//!
//! Absolute figures move from run to run, as load generator, proxy and backend share the processors:
//! only ratios within a round count, and their median is what is printed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod contender;
mod control_plane;
mod encrypted;
mod job;
mod report;
mod scale;
mod services;

use std::time::Duration;

use clap::Parser;

use contender::Contender;
use job::Job;

/// Compares the proxy with its peers on this machine.
#[derive(Parser)]
#[command(about, max_term_width = 100)]
struct Options {
    /// Rounds of every job; each runs all contenders once, in turn.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds under load of each measurement.
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Which jobs to run; all without it.
    #[arg(long, value_enum)]
    job: Vec<Job>,
    /// Leave out the mesh of 200 services.
    #[arg(long)]
    no_services: bool,
    /// Weigh proxies in meshes of so many services, and nothing else.
    #[arg(long, value_delimiter = ',')]
    scale: Vec<usize>,
    /// Weigh the control plane alone in large meshes, and nothing else.
    #[arg(long)]
    control_plane: bool,
    /// In a process of its own: so many services and proxies, which reach all of them or those of their namespace.
    #[arg(long, hide = true, num_args = 3, value_names = ["SERVICES", "PROXIES", "SCOPED"])]
    one_control_plane: Vec<usize>,
    /// Which contenders to run; all that can do the job without it.
    #[arg(long, value_enum)]
    only: Vec<Contender>,
}

fn main() {
    let options = Options::parse();
    if let [services, proxies, scoped] = options.one_control_plane[..] {
        println!("{}", control_plane::measure(services, proxies, scoped != 0));
        return;
    }
    if options.control_plane {
        return control_planes();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(async {
        if !options.scale.is_empty() {
            return scale(&options.scale).await;
        }
        for job in Job::all() {
            if options.job.is_empty() || options.job.contains(job) {
                run(*job, &options).await;
            }
        }
        if options.job.is_empty() && !options.no_services {
            println!("\nA mesh of 200 services with 2 endpoints each");
            println!("{}", services::measure().await);
            scale(&[10, 1000]).await;
            control_planes();
        }
    });
}

/// One after the other, each in a process of its own, as memory is counted.
fn control_planes() {
    println!("\nThe control plane alone, all it does for proxies but sockets");
    for (title, scoped) in [("each proxy reaches its namespace, one of 50", 1), ("each proxy reaches everything", 0)] {
        println!(" {title}");
        for (services, proxies) in [(100, 100), (1000, 100), (5000, 100), (5000, 2000)] {
            let sizes = [services, proxies, scoped].map(|size: usize| size.to_string());
            let program = std::env::current_exe().expect("the path of this program");
            let status = std::process::Command::new(program).arg("--one-control-plane").args(sizes).status();
            assert!(status.expect("this program runs").success(), "the measurement failed");
        }
    }
}

async fn scale(sizes: &[usize]) {
    for services in sizes {
        println!("{}", scale::measure(*services).await);
    }
}

async fn run(job: Job, options: &Options) {
    let contenders: Vec<Contender> = job
        .contenders()
        .iter()
        .copied()
        .filter(|contender| options.only.is_empty() || options.only.contains(contender))
        .collect();
    println!("\n{}", job.title());
    let mut rounds = Vec::new();
    for round in 1..=options.rounds {
        let mut figures = Vec::new();
        for contender in &contenders {
            let figure = job::measure(job, *contender, Duration::from_secs(options.seconds)).await;
            eprintln!("  round {round} of {}: {:<8} {}", options.rounds, contender.name(), figure.line(job));
            figures.push((*contender, figure));
        }
        rounds.push(figures);
    }
    println!("{}", report::table(job, &contenders, &rounds));
}
