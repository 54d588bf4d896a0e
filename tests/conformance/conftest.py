import pytest

pytest.register_assert_rewrite('conformance')  # the laws assert outside of test modules
