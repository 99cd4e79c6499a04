# make report: what of a run's log and scores is drawn; a picture where gnuplot is installed.
load common

report() { "$REPO/scripts/report" "$@"; }

# A gnuplot that keeps what it was asked to draw.
keep_plots() {
    mkdir kept bin
    printf '#!/bin/sh\ncp -r "$(dirname "$1")"/. "%s/kept/"\necho "<svg/>" >report.svg.new\n' "$PWD" >bin/gnuplot
    chmod +x bin/gnuplot
    PATH=$PWD/bin:$PATH
}

event() { # STEP LOSS RATE TOKENS SECONDS
    printf '{"time":"t","program":"%s","event":"step","step":%s,"loss":%s,"lr":%s,"norm":1,"rows":4,"tokens":%s,"seconds":%s}\n' \
        "${program:-step}" "$@"
}

make_run() {
    mkdir -p "$1"
    event 0 6 0.001 128 0.5 >"$1/log.jsonl"
    event 1 5 0.002 128 0 >>"$1/log.jsonl"
    event 2 99 0.003 128 1 >>"$1/log.jsonl"
    echo '{"time":"t","program":"step","event":"end","status":130}' >>"$1/log.jsonl"
    program=loss event 2 77 0 1 1 >>"$1/log.jsonl"
    event 2 4 1e-05 128 2 >>"$1/log.jsonl"
}

@test "loss, its mean, rate and speed; a step that was made again counts as it came last" {
    keep_plots
    make_run run
    [ "$(report run/)" = run/report.svg ]
    [ "$(cat run/report.svg)" = '<svg/>' ]
    diff kept/0 - <<'END'
0 6 6 0.001 256
1 5 5 0.002 NaN
2 4 4 1e-05 64
END
    [ ! -s kept/bars ]
}

@test "the loss is smoothed over a twentieth of the run" {
    keep_plots
    mkdir run
    for step in {0..39}; do event "$step" $((step % 2)) 0 1 1; done >run/log.jsonl
    report run
    [ "$(awk '$1 > 3 && ($3 < 1/3 || $3 > 2/3)' kept/0)" = '' ]
}

@test "stages beside each other, and bars of scores" {
    keep_plots
    make_run run/mntp
    make_run run/simcse
    mkdir run/scores
    echo '{"task":"sts","main_score":0.5,"cosine_spearman":0.5,"interval_95":{"cosine_spearman":[0.25,0.75],"b":[0,1]}}' \
        >run/scores/sts_b.json
    printf '{\n "main_score": 0.125\n}\n' >run/scores/cranfield.json
    report run
    cmp kept/0 kept/1
    grep -q '^set title "mntp: loss"' kept/plot
    diff kept/bars - <<'END'
"cranfield" 12.5 12.5 12.5
"sts b" 50 25 75
END
}

@test "without a run, a log or gnuplot: an error, and no picture" {
    keep_plots
    refused 2 report
    refused 2 report absent
    mkdir run
    refused 3 report run
    program=loss event 0 1 1 1 1 >run/log.jsonl
    refused 3 report run
    make_run run
    printf '#!/bin/sh\nexit 1\n' >bin/gnuplot
    refused 4 report run
    [ ! -e run/report.svg ]
}

@test "gnuplot draws it" {
    command -v gnuplot >/dev/null || skip "no gnuplot"
    make_run run
    mkdir run/scores
    echo '{"main_score":0.5}' >run/scores/a.json
    expect 0 report run
    [ ! -s err ]
    grep -q '<svg' run/report.svg
    [ "$(grep -c '>tokens a second<\|>run: loss<\|>learning rate<\|>results, times 100<' run/report.svg)" -eq 4 ]
}
