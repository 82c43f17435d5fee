//! Scenes: each is played with Envoy and with our proxy, and what was seen has to be the same.

use futures::StreamExt;
use lateen_tests::proxy::Kind;

/// Scenes played at a time.
const TOGETHER: usize = 6;

/// Plays all scenes; fails with the facts that only one of the two has.
pub async fn agree<S>(scenes: &[S], name: fn(&S) -> &str, play: impl AsyncFn(Kind, &S) -> Vec<String>) {
    let play = &play;
    let played = futures::stream::iter(scenes)
        .map(async |scene| (name(scene), play(Kind::Envoy, scene).await, play(Kind::Lateen, scene).await))
        .buffered(TOGETHER);
    let played: Vec<_> = played.collect().await;
    let mut wrong = Vec::new();
    for (name, theirs, ours) in played {
        if theirs != ours {
            let lines = |mark: &str, these: &[String], others: &[String]| {
                let own = these.iter().filter(|line| !others.contains(line));
                own.map(|line| format!("  {mark} {line}\n")).collect::<String>()
            };
            let (missing, more) = (lines("-", &theirs, &ours), lines("+", &ours, &theirs));
            wrong.push(format!("== {name}\n{missing}{more}"));
        }
    }
    assert!(wrong.is_empty(), "{} scenes differ:\n{}", wrong.len(), wrong.join("\n"));
}
