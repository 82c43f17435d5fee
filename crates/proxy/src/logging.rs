//! What the process says about itself, and changing how much of it while it runs.
//!
//! Levels and component names are Envoy's, so that what is written for Envoy's `/logging` works.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::Subscriber;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

/// What is wrong with a wish for logs.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LoggingError {
    /// Not a level.
    #[error("unknown logger level")]
    Level,
    /// Not a component.
    #[error("unknown logger name")]
    Component,
    /// Logs were set up before, by someone else.
    #[error("logging is set up already")]
    Taken,
}

/// How much is logged. `Critical` says what `Error` does: what would be critical ends the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Every step.
    Trace,
    /// What helps to find a fault.
    Debug,
    /// What an operator acts on.
    Info,
    /// What may be wrong.
    Warning,
    /// What is wrong.
    Error,
    /// What cannot be lived with.
    Critical,
    /// Nothing.
    Off,
}

impl Level {
    /// All, in the order Envoy names them.
    pub const ALL: [Level; 7] =
        [Self::Trace, Self::Debug, Self::Info, Self::Warning, Self::Error, Self::Critical, Self::Off];

    /// Envoy's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
            Self::Off => "off",
        }
    }

    fn filter(self) -> LevelFilter {
        match self {
            Self::Trace => LevelFilter::TRACE,
            Self::Debug => LevelFilter::DEBUG,
            Self::Info => LevelFilter::INFO,
            Self::Warning => LevelFilter::WARN,
            Self::Error | Self::Critical => LevelFilter::ERROR,
            Self::Off => LevelFilter::OFF,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Level {
    type Err = LoggingError;

    /// Envoy's words, and `warn`.
    fn from_str(word: &str) -> Result<Self, LoggingError> {
        let known = Self::ALL.into_iter().find(|level| level.as_str() == word);
        known.or_else(|| (word == "warn").then_some(Self::Warning)).ok_or(LoggingError::Level)
    }
}

/// Components by Envoy's name where it has one, and the modules that they are here.
const COMPONENTS: [(&str, &str); 17] = [
    ("admin", "lateen_proxy::admin"),
    ("config", "lateen_xds"),
    ("conn_handler", "lateen_proxy::listener"),
    ("connection", "lateen_proxy::connection"),
    ("dns", "lateen_proxy::dns"),
    ("file", "lateen_proxy::access_log"),
    ("filter", "lateen_proxy::tcp"),
    ("grpc", "tonic"),
    ("h2", "h2"),
    ("http", "lateen_proxy::http1"),
    ("http2", "lateen_proxy::http2"),
    ("hyper", "hyper"),
    ("io", "lateen_proxy::io"),
    ("main", "lateen_proxy::proxy"),
    ("router", "lateen_proxy::router"),
    ("upstream", "lateen_proxy::upstream"),
    ("worker", "lateen_proxy::worker"),
];

/// Libraries speak up only when asked for by name, or when everything is.
const LIBRARIES: [&str; 3] = ["h2", "hyper", "tonic"];

type Apply = dyn Fn(Targets) -> bool + Send + Sync;

/// Changes levels. Clones change the same.
#[derive(Clone)]
pub struct Logging {
    levels: Arc<Mutex<Levels>>,
    apply: Arc<Apply>,
}

#[derive(Debug, Clone)]
struct Levels {
    default: Level,
    components: BTreeMap<&'static str, Level>,
}

impl Levels {
    fn of(&self, component: &str) -> Level {
        self.components.get(component).copied().unwrap_or(self.default)
    }

    fn targets(&self) -> Targets {
        let mut targets = Targets::new().with_default(self.default.filter());
        for (component, target) in COMPONENTS {
            let level = self.of(component).filter();
            let quiet = LIBRARIES.contains(&target) && !self.components.contains_key(component);
            targets = targets.with_target(target, if quiet { level.min(LevelFilter::INFO) } else { level });
        }
        targets
    }
}

impl Logging {
    /// A filter for a subscriber, and its handle.
    pub fn filter<S>(level: Level) -> (reload::Layer<Targets, S>, Self)
    where
        S: Subscriber + 'static,
    {
        let levels = Levels { default: level, components: BTreeMap::new() };
        let (layer, handle) = reload::Layer::new(levels.targets());
        // It fails when the subscriber is gone, and with it who could read the logs.
        let apply = Arc::new(move |targets| handle.reload(targets).is_ok());
        (layer, Self { levels: Arc::new(Mutex::new(levels)), apply })
    }

    /// Logs of this process go to standard error from now on.
    ///
    /// # Errors
    /// [`LoggingError::Taken`].
    pub fn start(level: Level) -> Result<Self, LoggingError> {
        let (filter, logging) = Self::filter(level);
        let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
        tracing_subscriber::registry().with(filter).with(lines).try_init().map_err(|_| LoggingError::Taken)?;
        Ok(logging)
    }

    /// One level for all.
    pub fn set_all(&self, level: Level) {
        self.change(|levels| *levels = Levels { default: level, components: BTreeMap::new() });
    }

    /// Levels of some components.
    ///
    /// # Errors
    /// [`LoggingError::Component`] when one of them does not exist; then nothing is changed.
    pub fn set(&self, wishes: &[(&str, Level)]) -> Result<(), LoggingError> {
        let mut known = Vec::with_capacity(wishes.len());
        for (wish, level) in wishes {
            let component = COMPONENTS.iter().find(|(name, _)| name == wish).ok_or(LoggingError::Component)?;
            known.push((component.0, *level));
        }
        self.change(|levels| levels.components.extend(known));
        Ok(())
    }

    /// Every component and its level.
    pub fn levels(&self) -> impl Iterator<Item = (&'static str, Level)> {
        let levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner).clone();
        COMPONENTS.into_iter().map(move |(name, _)| (name, levels.of(name)))
    }

    fn change(&self, change: impl FnOnce(&mut Levels)) {
        let mut levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut levels);
        if !(self.apply)(levels.targets()) {
            tracing::debug!("no subscriber to change the levels of");
        }
    }
}

impl fmt::Debug for Logging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logging").field("levels", &self.levels).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// Remembers what is written.
    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Paper {
        fn take(&self) -> String {
            String::from_utf8(std::mem::take(&mut self.0.lock().unwrap())).unwrap()
        }
    }

    #[test]
    fn levels_change_while_running() {
        let paper = Paper::default();
        let (filter, logging) = Logging::filter(Level::Info);
        let writer = paper.clone();
        let lines = tracing_subscriber::fmt::layer().with_writer(move || writer.clone()).without_time();
        let _guard = tracing_subscriber::registry().with(filter).with(lines).set_default();
        let say = || {
            tracing::info!(target: "lateen_proxy::router", "router info");
            tracing::debug!(target: "lateen_proxy::router::retry", "router debug");
            tracing::debug!(target: "lateen_proxy::dns", "dns debug");
            tracing::debug!(target: "h2::codec", "h2 debug");
            paper.take()
        };
        let all = say();
        assert!(all.contains("router info") && !all.contains("debug"), "{all}");
        logging.set(&[("router", Level::Debug)]).unwrap();
        let all = say();
        assert!(all.contains("router debug") && !all.contains("dns debug"), "{all}");
        logging.set_all(Level::Debug);
        let all = say();
        assert!(all.contains("dns debug") && !all.contains("h2 debug"), "{all}");
        logging.set(&[("h2", Level::Trace), ("router", Level::Off)]).unwrap();
        let all = say();
        assert!(all.contains("h2 debug") && !all.contains("router"), "{all}");
        logging.set_all(Level::Off);
        assert_eq!(say(), "");
    }

    #[test]
    fn what_is_not_known_changes_nothing() {
        let (_filter, logging) = Logging::filter::<tracing_subscriber::Registry>(Level::Warning);
        assert_eq!(logging.set(&[("dns", Level::Trace), ("nope", Level::Trace)]), Err(LoggingError::Component));
        assert!(logging.levels().all(|(_, level)| level == Level::Warning));
        assert_eq!("loud".parse::<Level>(), Err(LoggingError::Level));
        for level in Level::ALL {
            assert_eq!(level.as_str().parse(), Ok(level));
        }
        assert_eq!("warn".parse(), Ok(Level::Warning));
    }
}
