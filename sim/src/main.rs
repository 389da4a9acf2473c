//! `causeway-sim`: plays runs from the command line; `cargo xtask sim` calls it.
//!
//! Owns the arguments, and what is said on the way. Decides nothing about a run.

// A command-line program talks to its user through standard output.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use causeway_sim::{
    KNOWN, Options, PartFailure, PartOptions, PartReport, PartTally, PresenceTally, Rule, Tally, TwinTally, run,
    run_presence, run_twin,
};

/// Failures after which it stops.
const FAILURES_MAX: usize = 20;

struct Arguments {
    options: Options,
    seeds: u64,
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1).peekable();
    if words.next_if(|word| word == "presence").is_some() {
        return part("presence", "--connects", words, run_presence, |tally: &PresenceTally| tally.connects);
    }
    if words.next_if(|word| word == "twin").is_some() {
        return part("twin", "--versions", words, run_twin, |tally: &TwinTally| tally.versions);
    }
    match arguments(words) {
        Ok(arguments) => play(&arguments),
        Err(error) => {
            eprintln!(
                "{error}\nusage: causeway-sim [--seed N] [--steps M] [--seeds COUNT] [--shards 1..3] [--damage] [--judge RULE] [--strict]"
            );
            ExitCode::FAILURE
        }
    }
}

fn arguments(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments {
        options: Options { seed: 1, steps: 2000, damage: false, shards: None, tolerated: KNOWN },
        seeds: 1,
    };
    while let Some(word) = words.next() {
        if word == "--judge" {
            let name = words.next().ok_or("--judge needs the name of a rule")?;
            judge(&mut arguments.options, &name)?;
            continue;
        }
        let mut number = || {
            let text = words.next().ok_or(format!("{word} needs a number"))?;
            text.parse::<u64>().map_err(|error| format!("{word} {text}: {error}"))
        };
        match word.as_str() {
            "--seed" => arguments.options.seed = number()?,
            "--seeds" => arguments.seeds = number()?,
            "--shards" => match number()? {
                shards @ 1..=3 => arguments.options.shards = Some(shards as usize),
                other => return Err(format!("{other} shards are not played, only 1 to 3")),
            },
            "--steps" => arguments.options.steps = number()?.try_into().map_err(|_| "too many steps".to_owned())?,
            "--strict" => arguments.options.tolerated = &[],
            "--damage" => arguments.options.damage = true,
            other => return Err(format!("unknown argument {other}")),
        }
    }
    Ok(arguments)
}

/// Runs of one part: until so many seeds, or so many of what is counted, whichever comes last.
struct PartArguments {
    options: PartOptions,
    seeds: u64,
    counted: u64,
}

fn part_arguments(counted: &str, mut words: impl Iterator<Item = String>) -> Result<PartArguments, String> {
    let options = PartOptions { seed: 1, steps: 3000, shards: None };
    let mut arguments = PartArguments { options, seeds: 1, counted: 0 };
    while let Some(word) = words.next() {
        let text = words.next().ok_or(format!("{word} needs a number"))?;
        let number = text.parse::<u64>().map_err(|error| format!("{word} {text}: {error}"))?;
        match word.as_str() {
            "--seed" => arguments.options.seed = number,
            "--seeds" => arguments.seeds = number,
            "--steps" => arguments.options.steps = number.try_into().map_err(|_| "too many steps".to_owned())?,
            "--shards" if (1..=3).contains(&number) => arguments.options.shards = Some(number as usize),
            word if word == counted => arguments.counted = number,
            other => return Err(format!("unknown argument {other} {number}")),
        }
    }
    Ok(arguments)
}

/// Plays runs of the part `name`; `counted` is the argument for how much of `count` there is to be.
fn part<T: PartTally>(
    name: &str,
    counted: &str,
    words: impl Iterator<Item = String>,
    run: fn(PartOptions) -> Result<PartReport<T>, Box<PartFailure>>,
    count: fn(&T) -> u64,
) -> ExitCode {
    match part_arguments(counted, words) {
        Ok(arguments) => play_part(&arguments, run, count),
        Err(error) => {
            eprintln!(
                "{error}\nusage: causeway-sim {name} [--seed N] [--steps M] [--seeds COUNT] [{counted} COUNT] [--shards 1..3]"
            );
            ExitCode::FAILURE
        }
    }
}

fn play_part<T: PartTally>(
    arguments: &PartArguments,
    run: fn(PartOptions) -> Result<PartReport<T>, Box<PartFailure>>,
    count: fn(&T) -> u64,
) -> ExitCode {
    let begun = Instant::now();
    let (mut tally, mut failed, mut played) = (T::default(), 0, 0);
    while played < arguments.seeds || count(&tally) < arguments.counted {
        match run(PartOptions { seed: arguments.options.seed + played, ..arguments.options }) {
            Ok(report) => tally.add(&report.tally),
            Err(failure) => {
                failed += 1;
                println!("{failure}\n");
                if failed == FAILURES_MAX {
                    println!("stopped after {FAILURES_MAX} failures");
                    break;
                }
            }
        }
        played += 1;
    }
    println!("{played} seeds, {failed} failed, {:.1?}; {tally:?}", begun.elapsed());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Takes a rule out of those that are tolerated.
fn judge(options: &mut Options, name: &str) -> Result<(), String> {
    let (judged, rest): (Vec<Rule>, Vec<Rule>) = options.tolerated.iter().partition(|rule| format!("{rule:?}") == name);
    if judged.is_empty() {
        return Err(format!("{name} is judged already, or no rule; tolerated are {:?}", options.tolerated));
    }
    // As long as the program.
    options.tolerated = rest.leak();
    Ok(())
}

fn play(arguments: &Arguments) -> ExitCode {
    let begun = Instant::now();
    let mut told = begun;
    let mut tally = Tally::default();
    let mut failed = 0;
    let first = arguments.options.seed;
    for played in 0..arguments.seeds {
        match run(Options { seed: first + played, ..arguments.options }) {
            Ok(report) => {
                tally.add(&report.tally);
                if arguments.seeds == 1 {
                    println!("seed {first}: all promises kept, digest {:016x}", report.digest);
                }
            }
            Err(failure) => {
                failed += 1;
                println!("{failure}\n");
            }
        }
        if told.elapsed() > Duration::from_secs(5) {
            told = Instant::now();
            println!("{} of {} seeds, {failed} failed, {:.0?}", played + 1, arguments.seeds, begun.elapsed());
        }
        if failed == FAILURES_MAX {
            println!("stopped after {FAILURES_MAX} failures");
            break;
        }
    }
    println!("{} seeds, {failed} failed, {:.1?}; {tally:?}", arguments.seeds, begun.elapsed());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
