//! What the administration listener answers about the registry: from a request to its answer.
//!
//! Owns the routes and the JSON. It knows no sockets: the listener calls it, and so does the command line on a data directory that no broker
//! has. Whether somebody may ask at all is decided before (see [`super::access`]). Calls wait for the disk.

mod bans;
mod credentials;
mod groups;
mod problem;
mod query;
mod vehicles;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::registry::{Listed, Page, Registry};
pub(crate) use problem::Problem;
use query::decoded;
pub(crate) use query::{Query, encoded};

/// The most that a request may say: a list of 10,000 vehicles with their groups and notes.
pub(crate) const BODY_BYTES_MAX: usize = 4 << 20;
/// Entries of a page, where nobody says how many.
const PAGE_DEFAULT: usize = 100;

/// What is asked.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    /// In capitals.
    pub(crate) method: &'a str,
    /// Without the query.
    pub(crate) path: &'a str,
    /// What stands behind the question mark.
    pub(crate) query: &'a str,
    pub(crate) body: &'a [u8],
    /// Milliseconds since 1970.
    pub(crate) now_ms: u64,
}

/// What is answered.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// None: there is nothing to say.
    pub(crate) body: Option<Value>,
}

/// What a route needs of whoever asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// To look.
    Read,
    /// To change.
    Write,
}

/// One call, with the words of the path that stand for names.
pub(crate) struct Call<'a> {
    registry: &'a Registry,
    request: &'a Request<'a>,
    names: Vec<String>,
}

type Outcome = Result<Answer, Problem>;

/// One thing that can be asked for.
pub(crate) struct Route {
    pub(crate) method: &'static str,
    /// Words in braces stand for names.
    pub(crate) path: &'static str,
    pub(crate) needs: Needs,
    pub(crate) does: Does,
}

/// Who answers.
#[derive(Clone, Copy)]
pub(crate) enum Does {
    /// The registry, of a broker that runs or of one that does not.
    Registry(fn(&Call<'_>) -> Outcome),
    /// The shards of a broker that runs: see [`super::live`].
    Live(Live),
}

/// What only a broker that runs can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Live {
    /// In the place of the registry's list, where the query says so.
    FindVehicles,
    ListShadows,
    ShowShadow,
    ChangeShadow,
    DeleteShadow,
    ShadowHistory,
    ShadowEvents,
    FleetEvents,
    SendCommand,
    ShowCommand,
    MakeJob,
    ListJobs,
    ShowJob,
    PauseJob,
    ResumeJob,
    CancelJob,
    JobResults,
}

const fn read(path: &'static str, handle: fn(&Call<'_>) -> Outcome) -> Route {
    Route { method: "GET", path, needs: Needs::Read, does: Does::Registry(handle) }
}

const fn write(method: &'static str, path: &'static str, handle: fn(&Call<'_>) -> Outcome) -> Route {
    Route { method, path, needs: Needs::Write, does: Does::Registry(handle) }
}

const fn look(path: &'static str, live: Live) -> Route {
    Route { method: "GET", path, needs: Needs::Read, does: Does::Live(live) }
}

const fn act(method: &'static str, path: &'static str, live: Live) -> Route {
    Route { method, path, needs: Needs::Write, does: Does::Live(live) }
}

/// All routes. Where two fit, the first counts.
pub(crate) const ROUTES: &[Route] = &[
    read("/v1/registry", counts),
    read("/v1/vehicles", vehicles::list),
    write("POST", "/v1/vehicles", vehicles::add),
    write("POST", "/v1/vehicles/activate", vehicles::activate_all),
    write("POST", "/v1/vehicles/suspend", vehicles::suspend_all),
    write("POST", "/v1/vehicles/retire", vehicles::retire_all),
    read("/v1/vehicles/{vin}", vehicles::show),
    write("PATCH", "/v1/vehicles/{vin}", vehicles::patch),
    write("DELETE", "/v1/vehicles/{vin}", vehicles::remove),
    write("POST", "/v1/vehicles/{vin}/activate", vehicles::activate),
    write("POST", "/v1/vehicles/{vin}/suspend", vehicles::suspend),
    write("POST", "/v1/vehicles/{vin}/retire", vehicles::retire),
    write("POST", "/v1/vehicles/{vin}/enrolment-token", vehicles::token),
    read("/v1/vehicles/{vin}/credentials", credentials::of_vehicle),
    look("/v1/vehicles/{vin}/shadows", Live::ListShadows),
    look("/v1/vehicles/{vin}/shadow", Live::ShowShadow),
    act("PATCH", "/v1/vehicles/{vin}/shadow", Live::ChangeShadow),
    act("DELETE", "/v1/vehicles/{vin}/shadow", Live::DeleteShadow),
    look("/v1/vehicles/{vin}/shadow/history", Live::ShadowHistory),
    look("/v1/vehicles/{vin}/shadow/events", Live::ShadowEvents),
    look("/v1/vehicles/{vin}/shadow/{name}", Live::ShowShadow),
    act("PATCH", "/v1/vehicles/{vin}/shadow/{name}", Live::ChangeShadow),
    act("DELETE", "/v1/vehicles/{vin}/shadow/{name}", Live::DeleteShadow),
    look("/v1/vehicles/{vin}/shadow/{name}/history", Live::ShadowHistory),
    look("/v1/shadows/events", Live::FleetEvents),
    act("POST", "/v1/vehicles/{vin}/commands/{name}", Live::SendCommand),
    look("/v1/commands/{id}", Live::ShowCommand),
    look("/v1/jobs", Live::ListJobs),
    act("POST", "/v1/jobs", Live::MakeJob),
    look("/v1/jobs/{id}", Live::ShowJob),
    act("POST", "/v1/jobs/{id}/pause", Live::PauseJob),
    act("POST", "/v1/jobs/{id}/resume", Live::ResumeJob),
    act("POST", "/v1/jobs/{id}/cancel", Live::CancelJob),
    look("/v1/jobs/{id}/results", Live::JobResults),
    read("/v1/groups", groups::list),
    read("/v1/groups/{name}", groups::show),
    write("PUT", "/v1/groups/{name}", groups::put),
    write("DELETE", "/v1/groups/{name}", groups::remove),
    read("/v1/groups/{name}/members", groups::members),
    write("POST", "/v1/groups/{name}/members", groups::change_members),
    write("PUT", "/v1/groups/{name}/members/{vin}", groups::add_member),
    write("DELETE", "/v1/groups/{name}/members/{vin}", groups::remove_member),
    read("/v1/credentials", credentials::list),
    write("POST", "/v1/credentials/revoke", credentials::revoke),
    read("/v1/credentials/{name}", credentials::show),
    read("/v1/bans", bans::list),
    write("POST", "/v1/bans", bans::add),
    read("/v1/bans/{subject}", bans::show),
    write("DELETE", "/v1/bans/{subject}", bans::remove),
];

/// The route for a method and a path, and the names in the path.
///
/// # Errors
/// There is nothing at the path, or nothing that can be done so.
pub(crate) fn route(method: &str, path: &str) -> Result<(&'static Route, Vec<String>), Problem> {
    let there: Vec<_> = ROUTES.iter().filter_map(|route| Some((route, names(route.path, path)?))).collect();
    let methods: Vec<_> = there.iter().map(|(route, _)| route.method).collect();
    // Looking is asked for so, too, by those who do not want to see.
    let method = if method == "HEAD" { "GET" } else { method };
    match there.into_iter().find(|(route, _)| route.method == method) {
        Some(found) => Ok(found),
        None if methods.is_empty() => Err(Problem::new(404, format!("there is nothing at {path}"))),
        None => Err(Problem::new(405, format!("{path} takes {}, not {method}", methods.join(", ")))),
    }
}

/// What stands for each word in braces, where the path is like that.
fn names(pattern: &str, path: &str) -> Option<Vec<String>> {
    let (mut names, mut words) = (Vec::new(), path.split('/'));
    for expected in pattern.split('/') {
        let word = words.next()?;
        match expected.starts_with('{') {
            true => names.push(decoded(word).filter(|name| !name.is_empty())?),
            false if expected == word => {}
            false => return None,
        }
    }
    words.next().is_none().then_some(names)
}

/// Does what is asked.
pub(crate) fn handle(registry: &Registry, request: &Request<'_>) -> Answer {
    let outcome = route(request.method, request.path).and_then(|(route, names)| match route.does {
        Does::Registry(handle) => handle(&Call { registry, request, names }),
        Does::Live(_) => Err(Problem::new(503, "only a broker that runs can answer this")),
    });
    outcome.unwrap_or_else(Problem::into_answer)
}

impl Answer {
    fn ok(body: impl Serialize) -> Outcome {
        Answer::with(200, body)
    }

    fn with(status: u16, body: impl Serialize) -> Outcome {
        let body = serde_json::to_value(body).map_err(|error| Problem::new(500, error.to_string()))?;
        Ok(Answer { status, body: Some(body) })
    }

    fn done() -> Outcome {
        Ok(Answer { status: 204, body: None })
    }
}

impl Call<'_> {
    fn name(&self, index: usize) -> &str {
        self.names.get(index).map_or("", String::as_str)
    }

    fn now_ms(&self) -> u64 {
        self.request.now_ms
    }

    /// What the request says, which has to be JSON of this form.
    fn body<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        serde_json::from_slice(self.request.body).map_err(|error| Problem::new(400, format!("the body: {error}")))
    }

    /// Likewise; nothing said is an empty object.
    fn body_or_default<T: DeserializeOwned + Default>(&self) -> Result<T, Problem> {
        if self.request.body.trim_ascii().is_empty() { Ok(T::default()) } else { self.body() }
    }

    fn query(&self, known: &[&str]) -> Result<Query, Problem> {
        Query::parse(self.request.query, known)
    }

    /// A page of a list, which takes `after` and `limit` and what else is `known`.
    fn paged(&self, known: &[&str]) -> Result<(Query, Page), Problem> {
        let query = self.query(&[known, &["after", "limit"]].concat())?;
        let limit = query.get("limit").map_or(Ok(PAGE_DEFAULT), |limit| {
            let number = limit.parse().ok().filter(|number| (1..=crate::registry::PAGE_MAX).contains(number));
            number.ok_or_else(|| {
                Problem::new(400, format!("limit has to be a number from 1 to {}", crate::registry::PAGE_MAX))
            })
        })?;
        let page = Page { after: query.get("after").map(str::to_owned), limit };
        Ok((query, page))
    }
}

/// `{"NAME": [...], "next": ...}`, where `next` is what to give as `after`.
fn page_of<T>(name: &str, (entries, next): Listed<T>, show: impl Fn(&T) -> Value) -> Outcome {
    let entries: Vec<Value> = entries.iter().map(show).collect();
    let mut body = json!({ name: entries });
    if let Some(next) = next {
        body["next"] = next.into();
    }
    Answer::ok(body)
}

fn counts(call: &Call<'_>) -> Outcome {
    call.query(&[])?;
    let counts = call.registry.counts();
    let states = crate::registry::State::ALL.iter().zip(counts.vehicles);
    let vehicles: serde_json::Map<String, Value> =
        states.map(|(state, count)| (state.to_string(), count.into())).collect();
    Answer::ok(json!({ "vehicles": vehicles, "groups": counts.groups, "bans": counts.bans }))
}

#[cfg(test)]
mod tests;
