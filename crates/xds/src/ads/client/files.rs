//! Resources from a file: a `DiscoveryResponse` in JSON or YAML, as Envoy's `path_config_source` takes it.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::DiscoveryResponse;

use super::run::FileError;
use crate::ResourceType;
use crate::bootstrap::parse_document;
use crate::json::Schema;
use crate::state::{Received, Update, resource_name};

/// A file that is read again when it changes.
pub(super) struct FileSource {
    r#type: ResourceType,
    path: PathBuf,
    /// Inode, size and time of change of what was read last, or tried.
    seen: Option<(u64, u64, i64, i64)>,
    missing: bool,
}

impl FileSource {
    pub fn new(r#type: ResourceType, path: PathBuf) -> FileSource {
        FileSource { r#type, path, seen: None, missing: false }
    }

    /// `None`: nothing has changed. The update removes nothing: the file does not know what was there before.
    pub fn read_if_changed(&mut self) -> Option<Result<Update, FileError>> {
        let metadata = match std::fs::metadata(&self.path) {
            Ok(metadata) => metadata,
            // Said once, not at every look.
            Err(_) if std::mem::replace(&mut self.missing, true) => return None,
            Err(e) => return Some(Err(FileError::Read(self.path.clone(), e))),
        };
        self.missing = false;
        let seen = (metadata.ino(), metadata.size(), metadata.mtime(), metadata.mtime_nsec());
        if self.seen.replace(seen) == Some(seen) {
            return None;
        }
        Some(self.read())
    }

    fn read(&self) -> Result<Update, FileError> {
        let text = std::fs::read_to_string(&self.path).map_err(|e| FileError::Read(self.path.clone(), e))?;
        let document = parse_document(&text).map_err(|e| FileError::Content(self.path.clone(), e))?;
        // Loaded for each reading: files change rarely, and the descriptors need some megabytes.
        let response: DiscoveryResponse = Schema::load()
            .and_then(|schema| schema.from_json(document))
            .map_err(|e| FileError::Json(self.path.clone(), e))?;
        let DiscoveryResponse {
            version_info,
            resources,
            canary: _,
            type_url: _,
            nonce: _,
            control_plane: _,
            resource_errors: _,
        } = response;
        let version: Arc<str> = version_info.into();
        let resources = resources
            .into_iter()
            .map(|body| Received { name: resource_name(&body), version: Arc::clone(&version), body })
            .collect();
        Ok(Update { r#type: self.r#type.clone(), version, nonce: Arc::default(), resources, removed: Vec::new() })
    }
}
