# The demo's agent: a script instead of a model, so that no key is needed. Everything around it is real.
echo "reading the issue and running the test on the untouched tree"
sh tests/pager_test.sh
echo "the last row of each page is lost: \`last\` is one too small"
sed 's/last=$((page \* size - 1))/last=$((page * size))/' pager.sh >pager.sh.new && mv pager.sh.new pager.sh
echo "edited pager.sh; running the test again"
sh tests/pager_test.sh
