//! Rules of shadows, one by one, and the examples of the AWS developer guide.

use serde_json::json;

use super::*;

#[test]
fn a_document_has_what_was_set_and_when() {
    let mut play = Play::default();
    play.update(
        json!({"desired": {"color": "RED", "sequence": ["RED", "GREEN", "BLUE"]}, "reported": {"color": "GREEN"}}),
    );
    let at = json!({"timestamp": NOW});
    let expected = json!({
        "state": {
            "desired": {"color": "RED", "sequence": ["RED", "GREEN", "BLUE"]},
            "reported": {"color": "GREEN"},
            "delta": {"color": "RED", "sequence": ["RED", "GREEN", "BLUE"]},
        },
        "metadata": {
            "desired": {"color": at, "sequence": [at, at, at]},
            "reported": {"color": at},
        },
        "version": 1,
        "timestamp": NOW,
    });
    assert_eq!(play.shadow.document(play.now_ms()), expected);
}

#[test]
fn the_delta_has_what_differs_and_is_not_reported_at_all() {
    let mut play = Play::default();
    play.update(json!({"desired": {"color": "RED", "state": "STOP"}, "reported": {"color": "GREEN", "engine": "ON"}}));
    assert_eq!(play.delta(), Some((1, json!({"color": "RED", "state": "STOP"}))));
    let mut nested = Play::default();
    nested.update(json!({"desired": {"lights": {"color": {"r": 255, "g": 255, "b": 255}}}}));
    nested.update(json!({"reported": {"lights": {"color": {"r": 255, "g": 0, "b": 255}}}}));
    assert_eq!(nested.delta(), Some((1, json!({"lights": {"color": {"g": 255}}}))));
}

#[test]
fn arrays_are_whole() {
    let mut play = Play::default();
    play.update(json!({"desired": {"colors": ["RED", "GREEN", "BLUE"]}}));
    play.update(json!({"desired": {"colors": ["RED"]}}));
    assert_eq!(play.state()["desired"], json!({"colors": ["RED"]}));
    play.update(json!({"reported": {"colors": ["RED", "GREEN"]}}));
    assert_eq!(play.delta(), Some((2, json!({"colors": ["RED"]}))));
}

#[test]
fn null_deletes_leaves_branches_and_sections() {
    let mut play = Play::default();
    play.update(json!({"desired": {"a": 1, "b": {"c": 2, "d": 3}}, "reported": {"a": 1}}));
    play.update(json!({"desired": {"a": null, "b": {"c": null, "x": null}}}));
    assert_eq!(play.state()["desired"], json!({"b": {"d": 3}}));
    play.update(json!({"desired": {"b": {"d": null}}}));
    assert_eq!(play.state(), json!({"reported": {"a": 1}}));
    play.update(json!({"desired": {"a": 2}}));
    play.update(json!({"desired": null}));
    assert_eq!(play.state(), json!({"reported": {"a": 1}}));
    play.send(json!({"state": null})).unwrap();
    assert_eq!(play.shadow.document(NOW_MS), json!({"state": {}, "metadata": {}, "version": 6, "timestamp": NOW}));
    assert!(play.shadow.exists());
}

#[test]
fn an_empty_object_is_no_value() {
    let mut play = Play::default();
    play.update(json!({"reported": {"a": {}, "b": {"c": {}}, "d": 1, "e": {"f": 1}}}));
    assert_eq!(play.state(), json!({"reported": {"d": 1, "e": {"f": 1}}}));
    play.update(json!({"reported": {"d": {}, "e": {}}}));
    assert_eq!(play.state(), json!({"reported": {"e": {"f": 1}}}));
}

#[test]
fn versions_are_expected_or_conflict() {
    let mut play = Play::default();
    let set = |version: u64| json!({"state": {"reported": {"a": 1}}, "version": version});
    assert_eq!(play.send(set(1)).unwrap_err(), Rejection::conflict());
    assert_eq!(play.send(set(0)).unwrap().version, 1);
    assert_eq!(play.send(set(0)).unwrap_err().code, 409);
    assert_eq!(play.send(set(1)).unwrap().version, 2);
    let delete = Request::delete(Some(1), None, Format::Json);
    assert_eq!(play.shadow.check(&delete, NOW_MS, &ShadowLimits::default()).unwrap_err().code, 409);
}

#[test]
fn a_deleted_shadow_goes_on_with_its_version_for_48_hours() {
    let mut play = Play::default();
    play.update(json!({"desired": {"a": 1}}));
    assert_eq!(play.apply(&Change::delete()).version, 2);
    assert_eq!((play.shadow.exists(), play.shadow.deleted_at()), (false, Some(NOW_MS)));
    assert_eq!(play.shadow.value_at("desired.a"), None);
    let again = Request::delete(None, None, Format::Json);
    assert_eq!(play.shadow.check(&again, NOW_MS, &ShadowLimits::default()).unwrap_err().code, 404);
    play.later_ms = VERSION_KEPT_MS;
    let made = play.send(json!({"state": {"desired": {"a": 1}}, "version": 0})).unwrap();
    assert_eq!((made.version, made.delta, play.shadow.deleted_at()), (3, Some(2), None));
    play.apply(&Change::delete());
    play.later_ms = 2 * VERSION_KEPT_MS + 1;
    let made = play.update(json!({"desired": {"a": 1}}));
    assert_eq!((made.version, made.delta), (1, Some(3)), "the sequence never goes back");
}

#[test]
fn a_delta_keeps_its_number_until_something_else_is_wanted() {
    let mut play = Play::default();
    assert_eq!(play.update(json!({"desired": {"a": 1, "b": 1}})).delta, Some(1));
    assert_eq!(play.update(json!({"desired": {"a": 1}})).delta, Some(1), "once more, with the same number");
    assert_eq!(play.update(json!({"reported": {"a": 1}})).delta, None, "the vehicle knows what it has not done");
    assert_eq!(play.delta(), Some((1, json!({"b": 1}))));
    assert_eq!(play.update(json!({"desired": {"b": 2}})).delta, Some(2));
    assert_eq!(play.update(json!({"desired": {"b": null}})).delta, None);
    assert_eq!(play.update(json!({"desired": {"a": 1}})).delta, None, "it is so");
    assert_eq!(play.shadow.sequence(), 2);
}

#[test]
fn a_leaf_settles_when_it_is_reported() {
    let mut play = Play::default();
    play.update(json!({"desired": {"lock": "unlocked"}}));
    play.update(json!({"reported": {"lock": "unlocked"}}));
    assert_eq!((play.delta(), &play.state()["desired"]), (None, &json!({"lock": "unlocked"})));
}

#[test]
fn a_settled_leaf_that_somebody_changed_is_released_and_does_not_fire_again() {
    let mut play = Play::default();
    play.update(json!({"desired": {"lock": "unlocked", "temperature": 21}}));
    play.update(json!({"reported": {"lock": "unlocked"}}));
    let transition = play.update(json!({"reported": {"lock": "locked"}}));
    assert_eq!(transition.released, Some(json!({"lock": "unlocked"})));
    assert_eq!(transition.delta, None);
    let history = json!({
        "from": {"reported": {"lock": "unlocked"}},
        "to": {"reported": {"lock": "locked"}},
        "released": {"lock": "unlocked"},
    });
    assert_eq!(transition.history, history);
    assert_eq!(play.delta(), Some((1, json!({"temperature": 21}))));
    assert_eq!(play.state()["desired"], json!({"temperature": 21}));
    // Wanted anew, it is a new delta.
    assert_eq!(play.update(json!({"desired": {"lock": "unlocked"}})).delta, Some(2));
}

#[test]
fn a_vehicle_may_say_that_it_handled_a_delta() {
    let mut play = Play::default();
    play.update(json!({"desired": {"lock": "unlocked", "wipe": true}, "reported": {"lock": "locked"}}));
    play.update(json!({"desired": {"horn": 1}}));
    // Unlocked, and locked by hand before it could report: the second delta it has not seen.
    let transition = play.send(json!({"state": {"reported": {"lock": "locked"}}, "delta": 1})).unwrap();
    assert_eq!(transition.released, Some(json!({"lock": "unlocked"})));
    assert_eq!(play.delta(), Some((2, json!({"horn": 1}))));
    assert_eq!(play.state()["desired"], json!({"horn": 1, "wipe": true}), "what is not reported stays settled");
    // No delta had this number.
    play.send(json!({"delta": 7})).unwrap();
    assert_eq!(play.delta(), Some((2, json!({"horn": 1}))));
    play.send(json!({"delta": 2})).unwrap();
    assert_eq!(play.delta(), None);
    assert_eq!(play.update(json!({"desired": {"wipe": true}})).delta, Some(3), "set again, it is pending anew");
}

#[test]
fn reported_and_desired_in_one_update_is_the_report_first() {
    let mut play = Play::default();
    let transition = play.update(json!({"desired": {"a": 1, "b": 1}, "reported": {"a": 1, "b": 2}}));
    assert_eq!((transition.delta, transition.released), (Some(1), None));
    assert_eq!(play.delta(), Some((1, json!({"b": 1}))));
}

#[test]
fn one_is_one_point_zero() {
    let mut play = Play::default();
    play.update(json!({"desired": {"a": 1, "b": [2.0], "c": {"d": 1e3}}}));
    play.update(json!({"reported": {"a": 1.0, "b": [2], "c": {"d": 1000}}}));
    assert_eq!(play.delta(), None);
    assert_eq!(play.update(json!({"reported": {"a": 1.5}})).released, Some(json!({"a": 1})));
}

#[test]
fn what_lives_for_a_time_is_dropped_then() {
    let mut play = Play::default();
    let update = json!({"state": {"desired": {"a": 1, "b": {"c": 2, "d": 3}}}, "ttl": {"a": 5, "b": {"c": 9}}});
    play.send(update).unwrap();
    let metadata = json!({
        "a": {"timestamp": NOW, "expires": NOW + 6},
        "b": {"c": {"timestamp": NOW, "expires": NOW + 10}, "d": {"timestamp": NOW}},
    });
    assert_eq!(play.shadow.document(NOW_MS)["metadata"]["desired"], metadata);
    assert_eq!(play.shadow.next_expiry(), Some(NOW_MS + 5000));
    play.later_ms = 4999;
    assert_eq!(play.delta().unwrap().1["a"], json!(1));
    play.later_ms = 5000;
    assert_eq!(play.delta(), Some((1, json!({"b": {"c": 2, "d": 3}}))), "not even before it was dropped");
    let transition = play.apply(&Change::expire());
    assert_eq!((transition.version, transition.expired.clone()), (2, Some(json!({"a": 1}))));
    assert_eq!(transition.history, json!({"expired": {"a": 1}}));
    let event = json!({"state": {"a": 1}, "version": 2, "timestamp": NOW + 5});
    assert_eq!(answer::expired(&transition, play.now_ms()), Some(event));
    // An update that comes before the clock is looked at drops, too.
    play.later_ms = 9000;
    assert_eq!(play.update(json!({"reported": {"x": 1}})).expired, Some(json!({"b": {"c": 2}})));
    assert_eq!((play.state()["desired"].clone(), play.shadow.next_expiry()), (json!({"b": {"d": 3}}), None));
}

#[test]
fn settled_leaves_are_dropped_as_well_and_setting_anew_renews() {
    let mut play = Play::default();
    let set = || json!({"state": {"desired": {"a": 1, "b": 1}}, "ttl": 5});
    play.send(set()).unwrap();
    play.update(json!({"reported": {"a": 1}}));
    play.later_ms = 4000;
    play.send(set()).unwrap();
    assert_eq!(play.shadow.next_expiry(), Some(NOW_MS + 9000));
    play.update(json!({"desired": {"b": 1}}));
    play.later_ms = 9000;
    assert_eq!(play.apply(&Change::expire()).expired, Some(json!({"a": 1})));
    assert_eq!(play.delta(), Some((1, json!({"b": 1}))));
}

#[test]
fn limits_are_of_the_state_that_comes_out() {
    let limits = ShadowLimits { state_bytes_max: 61, depth_max: 2, leaves_max: 10 };
    let mut shadow = Shadow::default();
    let mut send = |state: Value| {
        let request = request(json!({ "state": state }));
        shadow.check(&request, NOW_MS, &limits)?;
        shadow.apply(NOW_MS, &request.change);
        Ok::<_, Rejection>(shadow.state_bytes())
    };
    let long = "x".repeat(40);
    assert_eq!(send(json!({"reported": {"a": long}})), Ok(61));
    assert_eq!(send(json!({"reported": {"b": 1}})), Err(Rejection::too_large()));
    assert_eq!(send(json!({"reported": {"a": "y".repeat(40)}})), Ok(61));
    assert_eq!(send(json!({"reported": {"a": null, "b": {"c": 1}}})), Ok(26));
    assert_eq!(send(json!({"reported": {"b": {"c": {"d": 1}}}})).unwrap_err().code, 400);
    assert_eq!(send(json!({"reported": {"b": [[1]]}})).unwrap_err().code, 400);
    assert_eq!(send(json!({"reported": {"b": [1]}})), Ok(22));
}

#[test]
fn leaves_are_counted_with_what_is_in_arrays() {
    let limits = ShadowLimits { leaves_max: 6, ..ShadowLimits::default() };
    let mut shadow = Shadow::default();
    let mut send = |state: Value| {
        let request = request(json!({ "state": state }));
        shadow.check(&request, NOW_MS, &limits)?;
        shadow.apply(NOW_MS, &request.change);
        Ok::<_, Rejection>(())
    };
    let refused = Err(Rejection::too_many_leaves(6));
    assert_eq!(send(json!({"reported": {"a": [1, 2, 3, [], {"b": 5, "c": {}}]}})), Ok(()));
    assert_eq!(send(json!({"desired": {"a": 1}})), refused);
    assert_eq!(send(json!({"reported": {"b": {"c": 1}}})), refused);
    assert_eq!(send(json!({"reported": {"a": [1, 2, 3, 4, 5, 6]}})), Ok(()), "in place of what was there");
    assert_eq!(send(json!({"reported": {"a": [1, 2], "b": 3, "c": 4}, "desired": {"a": [5, 6]}})), Ok(()));
    assert_eq!(send(json!({"reported": {"b": null, "d": [3, 4]}})), refused);
    assert_eq!(send(json!({"reported": {"a": null, "d": [3, 4]}})), Ok(()));
}

/// Metadata has a timestamp for each element of an array, as AWS's has: 8 KB of state would make documents of 390 KB.
#[test]
fn the_largest_shadow_makes_documents_of_a_moderate_size() {
    let (mut play, elements) = (Play::default(), vec![1; 1021]);
    let state = json!({"desired": {"a": elements, "text": "x".repeat(6000)}, "reported": {"b": 1, "c": 2}});
    play.send(json!({"state": state, "ttl": 600})).unwrap();
    let before = play.shadow.clone();
    assert_eq!(play.send(json!({"state": {"reported": {"d": 3}}})).unwrap_err().code, 413);
    let transition = play.update(json!({"reported": {"c": 3}}));
    let documents = answer::documents(&before, &play.shadow, &transition, NOW_MS, None).to_string().len();
    let document = play.shadow.document(NOW_MS).to_string().len();
    assert!(play.shadow.state_bytes() > 8000 && documents < 128 << 10 && document < 80 << 10, "{documents} {document}");
}

#[test]
fn paths_lead_to_values() {
    let mut play = Play::default();
    play.update(json!({"desired": {"a": 1}, "reported": {"battery": {"soc": 17, "cells": [1]}}}));
    let shadow = &play.shadow;
    assert_eq!(shadow.value_at("reported.battery.soc"), Some(json!(17)));
    assert_eq!(shadow.value_at("reported.battery"), Some(json!({"cells": [1], "soc": 17})));
    assert_eq!(shadow.value_at("reported.battery.soc.x"), None);
    assert_eq!(shadow.value_at("desired.a"), Some(json!(1)));
    assert_eq!(shadow.value_at("version"), Some(json!(1)));
    assert_eq!(shadow.value_at("group"), None);
    assert_eq!(shadow.reported_at("battery.soc"), Some(json!(17)));
    assert_eq!(Shadow::default().value_at("reported"), None);
}

#[test]
fn answers_are_aws_documents() {
    let mut shadow = Shadow::default();
    let asked =
        request(json!({"state": {"desired": {"color": "red", "old": null}, "reported": null}, "clientToken": "t"}));
    let before = shadow.clone();
    let transition = shadow.apply(NOW_MS, &asked.change);
    let at = json!({"timestamp": NOW});
    let accepted = json!({
        "state": {"desired": {"color": "red", "old": null}, "reported": null},
        "metadata": {"desired": {"color": at, "old": at}, "reported": null},
        "version": 1, "timestamp": NOW, "clientToken": "t",
    });
    let token = asked.client_token.as_deref();
    assert_eq!(answer::accepted_update(&asked.change, &transition, NOW_MS, token), accepted);
    let documents = json!({
        "previous": {"state": {}, "metadata": {}, "version": 0},
        "current": {"state": {"desired": {"color": "red"}}, "metadata": {"desired": {"color": at}}, "version": 1},
        "timestamp": NOW, "clientToken": "t",
    });
    assert_eq!(answer::documents(&before, &shadow, &transition, NOW_MS, token), documents);
    let delta =
        json!({"state": {"color": "red"}, "metadata": {"color": at}, "version": 1, "timestamp": NOW, "sequence": 1});
    assert_eq!(shadow.delta(NOW_MS), Some((1, delta)));
    assert_eq!(answer::accepted_get(&shadow, NOW_MS, token)["clientToken"], json!("t"));
    assert_eq!(answer::accepted_delete(2, NOW_MS, None), json!({"version": 2, "timestamp": NOW}));
    let rejected = json!({"code": 409, "message": "Version conflict", "timestamp": NOW, "clientToken": "t"});
    assert_eq!(answer::rejected(&Rejection::conflict(), NOW_MS, token), rejected);
}
