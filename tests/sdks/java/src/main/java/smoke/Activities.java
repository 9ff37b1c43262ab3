package smoke;

import io.temporal.activity.Activity;
import io.temporal.activity.ActivityInterface;

/** The activities that the workflows call. */
@ActivityInterface
public interface Activities {
  int ATTEMPTS_UNTIL_SUCCESS = 3;

  /** Returns a greeting for the given name. */
  String greet(String name);

  /** Fails until its third attempt and returns the number of that attempt. */
  int failTwice();

  final class Implementation implements Activities {
    @Override
    public String greet(String name) {
      return "Hello, " + name + "!";
    }

    @Override
    public int failTwice() {
      int attempt = Activity.getExecutionContext().getInfo().getAttempt();
      if (attempt < ATTEMPTS_UNTIL_SUCCESS) {
        throw new IllegalStateException("attempt " + attempt + " fails on purpose");
      }
      return attempt;
    }
  }
}
