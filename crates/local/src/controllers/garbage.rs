//! What nobody owns any more is deleted: objects whose owners are all gone.

use std::collections::HashSet;

use lateen_galley::{Change, Kind, Snapshot};

use crate::admission::Admission;

/// Kinds whose objects are made for an owner.
const OWNED: [Kind; 2] = [Kind::Pod, Kind::EndpointSlice];
/// Kinds that own.
const OWNERS: [Kind; 4] = [Kind::Deployment, Kind::Service, Kind::Pod, Kind::EndpointSlice];

/// Deletes what lost its last owner.
pub fn reconcile(admission: &Admission, snapshot: &Snapshot) {
    let known: HashSet<&str> =
        OWNERS.iter().flat_map(|kind| snapshot.objects(*kind)).map(|object| object.uid()).collect();
    let kind_known = |kind: &str| OWNERS.iter().any(|owner| owner.name() == kind);
    for object in OWNED.iter().flat_map(|kind| snapshot.objects(*kind)) {
        let owners = object.metadata().owner_references.as_deref().unwrap_or_default();
        // An owner of a kind that is not followed here may well be there.
        let orphan = !owners.is_empty()
            && owners.iter().all(|owner| kind_known(&owner.kind) && !known.contains(owner.uid.as_str()));
        if orphan && object.metadata().deletion_timestamp.is_none() {
            let change = Change::Delete { key: object.key(), uid: Some(object.uid().to_owned()), revision: None };
            if let Err(refusal) = admission.write(change) {
                tracing::debug!(%refusal, "garbage was gone already");
            }
        }
    }
}
