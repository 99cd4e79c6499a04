# make install and uninstall: the layout, and that what is installed works from there.
load common

installed() {
    DESTDIR=$PWD/root PREFIX=/opt/vecpipe make -s -C "$REPO" "$@" BUILD="$(dirname "$VP_BIN")" >make.log 2>&1 ||
        { cat make.log; return 1; }
}

@test "install puts vp in bin, the programs in libexec, pages in share/man" {
    installed install
    top=root/opt/vecpipe
    [ -x $top/bin/vp ]
    [ "$(ls $top/bin)" = vp ]
    while read -r program; do
        [ -x "$top/libexec/vecpipe/$program" ]
        [ -s "$top/share/man/man1/$program.1" ]
    done < <(sed -n 's/^X("\([a-z-]*\)".*/\1/p' "$REPO/tools/programs.def")
    [ -s $top/share/man/man5/vecpipe.5 ]
    [ -s $top/share/man/man7/vecpipe.7 ]
    [ -s $top/share/vecpipe/examples/corpus.jsonl ]
    [ -s $top/share/vecpipe/LICENSE ]
}

@test "the installed vp finds its programs, also through a link" {
    installed install
    ln -s "$PWD/root/opt/vecpipe/bin/vp" vp-link
    [[ $(./vp-link tok --version) == "tok (vecpipe)"* ]]
    [[ $(./vp-link help vp) == "vp: "* ]]
    PATH=/usr/bin:/bin
    eval "$(./vp-link env)"
    [ "$(command -v knn)" = "$PWD/root/opt/vecpipe/libexec/vecpipe/knn" ]
}

@test "the installed pipeline finds its presets and the installed programs" {
    installed install
    top=$PWD/root/opt/vecpipe
    env -u VP_BIN PATH=/usr/bin:/bin "$top/share/vecpipe/pipelines/llm2vec" mntp --preset mistral-7b --decay-steps 9 \
        -m model -o run text.txt --dry-run >out
    [ "$(head -n 1 out)" = "PATH=$top/libexec/vecpipe:\$PATH" ]
    grep -q -- '--rate 0.8' out
    "$top/share/vecpipe/pipelines/rows" convert <<<'{"query":"a","pos":"b"}' | grep -q '"pos": \["b"\]'
}

@test "the installed mine.mk finds the installed programs" {
    installed install
    top=$PWD/root/opt/vecpipe
    printf 'MINE_MODEL = m\nMINE_QUERIES = q\ninclude %s/share/vecpipe/pipelines/mine.mk\nshow:\n\t@echo $(mine_path)\n' \
        "$top" >own.mk
    [ "$(make -s -f own.mk show | cut -d : -f 1)" = "$top/libexec/vecpipe/" ]
}

@test "uninstall leaves nothing" {
    installed install
    installed uninstall
    [ -z "$(find root -type f)" ]
}

@test "the CUDA backend is installed beside the programs where it was built, and found there" {
    shim=$REPO/build/shim/libvecpipe-cuda.so
    [ -e "$shim" ] || skip "no shim: make shim"
    mkdir -p made/bin
    cp "$VP_BIN/fwd" made/bin/
    cp "$shim" made/
    (cd "$REPO" && DESTDIR=$OLDPWD/root PREFIX=/usr scripts/install "$OLDPWD/made/bin" fwd)
    sed 's/#.*//' "$REPO/tests/streams/minimal.hex" | tr -d ' \n' | tr a-f A-F | basenc --base16 -d >ids.vp
    root/usr/libexec/vecpipe/fwd -v --device cuda -m "$REPO/tests/golden/llama-gqa-tied" <ids.vp 2>err >hidden.vp
    grep -q 'computes on cuda' err
}
