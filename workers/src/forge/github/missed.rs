//! Deliveries that GitHub could not hand over while Onramp was away: GitHub keeps them for three days but never sends
//! them again by itself.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;
use tasks::{Code, Failure, Timestamp};

use super::{api::Api, errors::Trouble};
use crate::forge::Missed;

const PER_PAGE: usize = 100;
const MAX_PAGES: usize = 30;
/// What failed so often is not wanted by whoever answers here.
const MAX_TRIES: usize = 3;

/// One try to deliver.
#[derive(Deserialize)]
struct Delivery {
    id: u64,
    /// The same for every try.
    guid: String,
    delivered_at: Timestamp,
    #[serde(default)]
    status_code: u16,
}

/// Asks for every delivery since then none of whose tries arrived.
///
/// # Errors
/// E050, E051, E054.
pub(super) async fn ask_again(app: &Api, since: Timestamp) -> Result<Missed, Failure> {
    let failure = |trouble: Trouble| trouble.failure("list the deliveries that did not arrive", Code::ForgeAuth);
    let mut tries: BTreeMap<String, Vec<Delivery>> = BTreeMap::new();
    let mut newest = None;
    let mut cursor = String::new();
    for _ in 0..MAX_PAGES {
        let route = format!("/app/hook/deliveries?per_page={PER_PAGE}{cursor}");
        let page = app.get::<Vec<Delivery>>(&route).await.map_err(failure)?;
        let reached = page.value.iter().any(|delivery| delivery.delivered_at < since);
        for delivery in page.value.into_iter().filter(|delivery| delivery.delivered_at >= since) {
            newest = newest.max(Some(delivery.delivered_at));
            tries.entry(delivery.guid.clone()).or_default().push(delivery);
        }
        match page.cursor {
            Some(next) if !reached => cursor = format!("&cursor={next}"),
            _ => break,
        }
    }
    let mut n_asked_for = 0;
    for (guid, tries) in tries {
        let arrived = tries.iter().any(|delivery| (200..300).contains(&delivery.status_code));
        let Some(first) = tries.first().filter(|_| !arrived && tries.len() < MAX_TRIES) else { continue };
        let route = format!("/app/hook/deliveries/{}/attempts", first.id);
        match app.post::<serde_json::Value>(&route, &json!({})).await {
            Ok(_) => n_asked_for += 1,
            Err(trouble @ Trouble::Limited { .. }) => return Err(failure(trouble)),
            Err(trouble) => tracing::warn!(guid, ?trouble, "a missed delivery could not be asked for"),
        }
    }
    Ok(Missed { n_asked_for, newest })
}
